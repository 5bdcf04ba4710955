"""`unplateau tying`: does weight tying pay for this run?"""

import statistics
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import (
    OutOption,
    RecipeOption,
    SetOption,
    WandbOption,
    WorkersOption,
    configured,
    progress_bar,
    results_folder,
    tell,
)

if TYPE_CHECKING:
    from experiments.tying import Tying


def tying(
    recipe: RecipeOption = "small",
    changes: SetOption = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps of each run.", min=1)] = 300,
    seeds: Annotated[int, typer.Option(help="Paired seeds; each is trained tied and untied.", min=2)] = 3,
    workers: WorkersOption = None,
    out: OutOption = None,
    wandb: WandbOption = "auto",
) -> None:
    """Compare tied and untied weights over paired seeds.

    Tied: the embedding is also the matrix before the softmax. Compared is the honest held-out loss in bits per byte,
    each token predicted from what stands before it. A difference counts where it beats twice its paired standard
    error and what another seed alone does.
    """
    config = configured(recipe, changes, wandb=wandb)
    folder = results_folder(out, f"tying-{config.name}")
    from diagnostics.workers import workers_available
    from experiments.commands.results import reserve, results
    from experiments.pictures import before_after
    from experiments.tying import tying as measured

    reserve(config, folder)
    with progress_bar("training tied and untied") as advance:
        found = measured(
            config,
            seeds=seeds,
            steps=steps,
            workers=workers or workers_available(),
            on_done=lambda done: advance(done, 2 * seeds),
        )
    show(found)
    curves = {"untied": found.untied_curves, "tied": found.tied_curves}
    with results(config, folder, job_type="tying") as kept:
        kept.numbers("tying", found)
        kept.table("tying", ["seed", "untied", "tied"], rows(found))
        kept.picture("tying", before_after(found.trial, curves))
    tell("verdict", sentence(found))
    tell("next", next_step(found, recipe))


def rows(found: "Tying") -> list[tuple[int, float, float]]:
    """Seed, loss untied, loss tied."""
    return list(zip(found.trial.seeds, found.trial.before, found.trial.after, strict=True))


def show(found: "Tying") -> None:
    """A row per seed, and what it comes to."""
    trial = found.trial
    typer.echo(f"{trial.quantity}, {found.steps} steps\n")
    typer.echo(f"{'seed':<12}{'untied':>10}{'tied':>10}{'gain':>10}")
    for seed, untied, tied in rows(found):
        typer.echo(f"{seed:<12}{untied:>10.4f}{tied:>10.4f}{untied - tied:>+10.4f}")
    means = statistics.fmean(trial.before), statistics.fmean(trial.after)
    typer.echo(f"{'mean':<12}{means[0]:>10.4f}{means[1]:>10.4f}{trial.effect:>+10.4f}")
    typer.echo(
        f"\npaired standard error of the gain {trial.effect_error:.4f}; spread of a seed {trial.seed_spread:.4f}"
    )
    saved = found.untied_parameters - found.tied_parameters
    typer.echo(
        f"parameters: {found.untied_parameters:,} untied, {found.tied_parameters:,} tied: {saved:,} saved "
        f"({100 * saved / found.untied_parameters:.0f} %)\n"
    )


def sentence(found: "Tying") -> str:
    """The verdict in one line."""
    effect = found.trial.effect
    if found.verdict == "no difference beyond the noise":
        return f"no difference beyond the noise: {effect:+.4f} by tying is within what seeds do"
    change = "lowers" if effect > 0 else "raises"
    return f"{found.verdict}: tying {change} the loss by {abs(effect):.4f}, more than error and seeds explain"


def next_step(found: "Tying", recipe: str) -> str:
    """The setting to keep, or more seeds to see more."""
    if found.verdict == "no difference beyond the noise":
        return f"unplateau tying --recipe {recipe} --seeds {2 * len(found.trial.seeds)}"
    switch = "defects.untied_head" if found.switched_by_defect else "model.tie_weights"
    keep = (found.verdict == "tied is better") != found.switched_by_defect
    return f"unplateau train --recipe {recipe} --set {switch}={str(keep).lower()}"
