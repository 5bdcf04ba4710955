"""`unplateau overfit`: can this setup learn one batch by heart?"""

from collections.abc import Sequence
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
from experiments.config import RunConfig, override

if TYPE_CHECKING:
    from experiments.overfit import Overfit, Verdict


def overfit(
    recipe: RecipeOption = "small",
    changes: SetOption = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps on the one batch.", min=1)] = 200,
    seeds: Annotated[int, typer.Option(help="Seeds; each has its own weights and its own batch.", min=1)] = 3,
    workers: WorkersOption = None,
    out: OutOption = None,
    wandb: WandbOption = "auto",
) -> None:
    """Train on one batch until it is known by heart, or is not.

    Losses are in nats per token. A sound setup gets within 0.05 nats of the lowest loss that is possible on that
    batch, called as in training and as in generation. Passing says nothing about leaks: a model that reads the answer
    passes too.
    """
    config = long_enough(configured(recipe, changes, wandb=wandb), steps)
    folder = results_folder(out, f"overfit-{config.name}")
    from diagnostics.workers import workers_available
    from experiments.commands.results import reserve, results
    from experiments.overfit import overfit_all, verdict
    from experiments.pictures import loss_curves
    from experiments.subject import subject_of

    reserve(config, folder)
    with progress_bar("learning one batch") as advance:
        advance(0, seeds)
        runs = overfit_all(
            subject_of(config),
            seeds=seeds,
            steps=steps,
            workers=workers or workers_available(),
            on_done=lambda done: advance(done, seeds),
        )
    show(runs)
    with results(config, folder, job_type="overfit") as kept:
        kept.numbers("overfit", runs)
        kept.curve("one-batch/loss", runs[0].curve)
        kept.picture(
            "overfit", loss_curves({"on one batch": [run.curve for run in runs]}, line=0.05, title=config.name)
        )
    found = verdict(runs)
    tell("verdict", sentence(found, steps))
    tell("next", next_step(found, recipe, steps))


def long_enough(config: RunConfig, steps: int) -> RunConfig:
    """The run, made longer where its schedule would end before the check does."""
    length = config.train.steps
    return override(config, {"train.steps": steps}) if length is not None and length < steps else config


def show(runs: Sequence["Overfit"]) -> None:
    """A row per seed."""
    typer.echo(
        f"{'seed':<6}{'first':>8}{'last':>8}{'steps':>7}{'evaluated':>11}{'generating':>12}{'lowest possible':>17}"
    )
    for run in runs:
        writing = "-" if run.generating is None else f"{run.generating:.3f}"
        typer.echo(
            f"{run.seed:<6}{run.curve[0]:>8.3f}{run.curve[-1]:>8.3f}{len(run.curve):>7}{run.evaluated:>11.3f}"
            f"{writing:>12}{run.lowest_possible:>17.3f}"
        )
    typer.echo("losses in nats per token; evaluated: after training, without dropout\n")


def sentence(verdict: "Verdict", steps: int) -> str:
    """The verdict in one line."""
    return {
        "learned": "one batch is learned by heart",
        "learned, but not as generation uses it": "learned, but NOT known when the model is used as in generation",
        "not learned yet": f"one batch is NOT learned in {steps} steps, and the loss is still falling",
        "not learned": f"one batch is NOT learned in {steps} steps: something keeps the loss up",
    }[verdict]


def next_step(verdict: "Verdict", recipe: str, steps: int) -> str:
    """The command that looks further."""
    if verdict == "learned":
        return f"unplateau gradients --recipe {recipe}"
    if verdict == "not learned yet":
        return f"unplateau overfit --recipe {recipe} --steps {2 * steps}"
    return f"unplateau diagnose --recipe {recipe}"
