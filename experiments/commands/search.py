"""`unplateau search`: would other values of some settings help, and which?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from experiments.commands.console import (
    Advance,
    OutOption,
    RecipeOption,
    SetOption,
    WandbOption,
    configured,
    progress_bar,
    stages,
    tell,
)
from experiments.config import RunConfig

if TYPE_CHECKING:
    from experiments.search.findings import Found
    from experiments.search.plan import Plan
    from experiments.search.space import Changes
    from experiments.search.study import Study


def search(
    recipe: RecipeOption = "small",
    changes: SetOption = None,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="NAME=VALUES",
            help="A setting to tune: LOW..HIGH, LOW..HIGH:log or A,B,C; also 4*OTHER.NAME, and VALUES when OTHER=A,B. "
            "Repeatable; by default fourteen of them, the size of the model and the rate among them.",
        ),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare", metavar="NAME=A,B", help="A setting whose values are compared, each with the others tuned."
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="Trials that are run, those pruned on the way included.", min=1)] = 40,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens that each trial trains on; by default as many as the recipe.", min=1),
    ] = None,
    against: Annotated[
        str, typer.Option(help="Minimise beside the loss: seconds or parameters (a Pareto front, no pruning).")
    ] = "nothing",
    pruner: Annotated[str, typer.Option(help="How poor trials end early: halving, hyperband or none.")] = "halving",
    sampler: Annotated[str, typer.Option(help="How values are chosen: tpe or random.")] = "tpe",
    seed: Annotated[int, typer.Option(help="Of the sampler and of every trial.", min=0)] = 0,
    finalists: Annotated[int, typer.Option(help="How many of the best are trained again.", min=1)] = 3,
    seeds: Annotated[int, typer.Option(help="Other seeds for the finalists and the recipe's own values.", min=2)] = 3,
    max_parameters: Annotated[int | None, typer.Option(help="Largest model, in trainable numbers.", min=1)] = None,
    max_memory: Annotated[float | None, typer.Option(help="Most memory of training, in MiB.", min=0.01)] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longest training of a trial.", min=0.01)] = None,
    workers: Annotated[int, typer.Option(help="Trials side by side; one worker can be repeated exactly.", min=1)] = 1,
    threads: Annotated[
        int, typer.Option(help="Processor threads of each worker, up to its share. Small models gain nothing.", min=1)
    ] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            help="For several machines: postgresql+psycopg://USER@HOST/NAME or grpc://HOST:PORT.",
            envvar="UNPLATEAU_STORAGE",
            show_envvar=True,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the study in the storage; by default the recipe's.")] = None,
    anyway: Annotated[bool, typer.Option("--anyway", help="Search even if the setup is broken.")] = False,
    out: OutOption = None,
    wandb: WandbOption = "auto",
) -> None:
    """Search for better values of some settings, and say whether values are the answer at all.

    Every trial trains on the same number of tokens; the loss is that of held-out text in bits per byte. Poor trials
    end early. The best values and the recipe's own are trained again from other seeds, and only what beats the seeds
    counts. The same command goes on with a study that was stopped. Before the first trial, forward passes look for
    faults that no value can mend.
    """
    config = configured(recipe, changes, wandb=wandb)
    from experiments.search.plan import Limits, Plan
    from experiments.search.space import default_space

    plan = Plan(
        name=name or config.name,
        config=config,
        search=tuple(search or (() if compare else default_space(config))),
        compare=tuple(compare or ()),
        trials=trials,
        tokens=tokens or tokens_of(config),
        against=against,
        pruner=pruner,
        sampler=sampler,
        seed=seed,
        finalists=finalists,
        seeds=seeds,
        limits=Limits(parameters=max_parameters, memory=max_memory, seconds=max_seconds),
    )
    folder = out or Path("runs") / f"search-{plan.name}"
    searched(plan, folder, recipe=recipe, workers=workers, threads=threads, storage=storage, anyway=anyway)


def tokens_of(config: RunConfig) -> int:
    """How many tokens the recipe trains on."""
    if config.train.steps is None:
        raise ValueError("train.epochs gives runs of different lengths; say how long trials are with --tokens")
    return config.train.steps * config.data.batch_size * config.data.context


def searched(
    plan: "Plan", folder: Path, *, recipe: str, workers: int, threads: int, storage: str | None, anyway: bool
) -> None:
    """The whole search: the check, the trials, the report."""
    from diagnostics.diagnosis import to_json
    from experiments.record import write_text
    from experiments.search.check import broken, refusal
    from experiments.search.findings import found_by, verdict
    from experiments.search.plan import PLAN, keep
    from experiments.search.storage import open_storage, quiet
    from experiments.search.study import open_study
    from experiments.search.workers import run_workers

    quiet()
    refuse_sqlite(storage, workers)
    keep(plan, folder / PLAN)
    studies = open_study(plan, open_storage(storage, folder))
    with stages() as stage:
        faults = broken(plan.config, plan.space, progress=stage)
    if faults and not anyway:
        raise ValueError(refusal(faults, recipe))
    with progress_bar("searching") as advance:
        teller = Teller(studies, advance, plan.trials)
        try:
            alone = workers == 1 and not storage
            run_workers(folder, workers=workers, storage=storage, alone=alone, threads=threads, watch=teller.look)
        except KeyboardInterrupt:
            typer.echo("next        the same command goes on with this study", err=True)
            raise
    found = found_by(plan, *studies, broken=faults)
    show(found)
    write_text(folder / "search.json", json.dumps(to_json(found), indent=1) + "\n")
    tell("numbers", folder / "search.json")
    tell("verdict", verdict(found))
    tell("next", next_step(found, recipe))


def refuse_sqlite(storage: str | None, workers: int) -> None:
    """SQLite takes one process only."""
    if storage is not None and storage.startswith("sqlite") and workers > 1:
        raise ValueError(f"--storage {storage} takes one process; use --workers 1, PostgreSQL, or no --storage at all")


class Teller:
    """One line for every trial that ended since the last look."""

    def __init__(self, studies: "tuple[Study, Study]", advance: Advance, trials: int) -> None:
        self.studies, self.advance, self.trials = studies, advance, trials
        self.shown = {each.study_name: ended_in(each) for each in studies}

    def look(self) -> None:
        """Say what is new."""
        from experiments.search.study import number_of

        for study in self.studies:
            ended = ended_in(study)
            for number in sorted(ended.keys() - self.shown[study.study_name].keys()):
                typer.echo(ended[number])
            self.shown[study.study_name] |= ended
        self.advance(number_of(self.studies[0]), self.trials)


def ended_in(study: "Study") -> dict[int, str]:
    """A line for every trial of an Optuna study that is over, by its number."""
    over = [each for each in study.get_trials(deepcopy=False) if each.state.is_finished()]
    return {each.number: line(each.number, each.user_attrs) for each in over if "result" in each.user_attrs}


def line(number: int, about: dict[str, Any]) -> str:
    """A trial in one line: how it ended, and its values."""
    result = about["result"]
    loss = result["bits_per_byte"]
    ending = f"{loss:.3f} bits/byte" if loss is not None else f"{result['state']}: {result['reason']}"
    what = f"again {about['key']}" if "key" in about else f"trial {number}"
    return f"{what:<16}{ending}  {in_words(about['changes'])}  {result['seconds']:.1f} s"


def in_words(changes: "Changes") -> str:
    """Settings and their values, the sections left out."""
    values = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in changes.items()}
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in values.items())


def show(found: "Found") -> None:
    """The best values with their spread, what is compared, and what mattered."""
    endings = ", ".join(f"{number} {state}" for state, number in found.endings.items())
    typer.echo(f"\n{len(found.run)} trials of {found.tokens:,} tokens ({endings})\n")
    typer.echo(f"{'bits/byte':<20}held-out text, mean and standard deviation over seeds {found.seeds}")
    for each in (found.own, *found.best):
        values = in_words(each.changes) or "the recipe's own values"
        typer.echo(f"{each.mean:.3f} +- {each.spread:.3f}{'':<5}{values}")
    for combination in found.compared:
        best = combination.best
        reached = "none completed" if best is None else f"{best.bits_per_byte:.3f} bits/byte (trial {best.number})"
        typer.echo(f"{in_words(combination.values)}: {reached}, best of {combination.trials}")
    if found.front:
        typer.echo(f"Pareto front: trials {', '.join(map(str, found.front))}")
    show_importances(found)


def show_importances(found: "Found") -> None:
    """A row per setting, and what to think of the figures."""
    if not found.importances:
        return
    typer.echo(f"\n{'setting':<26}{'fANOVA':>8}{'by chance':>11}{'PED-ANOVA':>11}   {found.measured}")
    for each in found.importances:
        figures = [percent(each.fanova), percent(each.chance), percent(each.ped_anova)]
        noise = "   noise" if each.is_noise else ""
        typer.echo(f"{each.setting:<26}{figures[0]:>8}{figures[1]:>11}{figures[2]:>11}{noise}")
    if all(each.is_noise for each in found.importances):
        typer.echo("too few trials: shuffled values give every setting as much")


def percent(share: float | None) -> str:
    """A share, or a dash."""
    return "-" if share is None else f"{100 * share:.0f} %"


def next_step(found: "Found", recipe: str) -> str:
    """The run with the best values, or the diagnosis where values are not the answer."""
    if found.broken or found.gain is None or not found.gain.counts:
        return f"unplateau diagnose --recipe {recipe}"
    return f"unplateau train --recipe {recipe} " + " ".join(
        f"--set {name}={str(value).lower() if isinstance(value, bool) else value}"
        for name, value in found.best[0].changes.items()
    )
