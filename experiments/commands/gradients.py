"""`unplateau gradients`: which modules learn, and how fast?"""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from experiments.commands.console import (
    OutOption,
    RecipeOption,
    SetOption,
    WandbOption,
    configured,
    progress_bar,
    results_folder,
    tell,
    width,
)

if TYPE_CHECKING:
    from experiments.gradients import Gradients, ModuleGradients

COLUMNS = ("module", "parameters", "norm, first", "norm, median", "ratio, first", "ratio, median", "zero, first")
NUMBERS = 46  # columns of the terminal that the figures of a row take


def gradients(
    recipe: RecipeOption = "small",
    changes: SetOption = None,
    steps: Annotated[int, typer.Option(help="First optimizer steps to watch, on fresh batches.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Of weights, batches and dropout.", min=0)] = 0,
    out: OutOption = None,
    wandb: WandbOption = "auto",
) -> None:
    """Show gradient norms and update sizes by module.

    Norm: length of the gradient before clipping. Ratio: length of one update over length of the weights; a common
    rule of thumb is 0.001. Zero: share of entries whose gradient is exactly zero. First: at the first
    step; median: over all steps watched.
    """
    config = configured(recipe, changes, wandb=wandb)
    folder = results_folder(out, f"gradients-{config.name}")
    from diagnostics.workers import one_thread
    from experiments.commands.results import reserve, results
    from experiments.gradients import gradients as measured
    from experiments.pictures import by_module
    from experiments.subject import subject_of

    reserve(config, folder)
    with progress_bar("first steps") as advance, one_thread():
        found = measured(subject_of(config), seed=seed, steps=steps, on_step=lambda done: advance(done, steps))
    show(found)
    norms = [(module.module, module.norms[0]) for module in found.modules]
    ratios = [(module.module, module.usual_ratio) for module in found.modules]
    with results(config, folder, job_type="gradients") as kept:
        kept.numbers("gradients", found)
        kept.table("gradients", COLUMNS, [row(module) for module in found.modules])
        kept.curve("grad/norm", found.total_norms)
        kept.picture("gradient-norms", by_module(norms, unit="norm of the gradient, first step", title=config.name))
        kept.picture("update-ratios", by_module(ratios, unit="update over weights, median", title=config.name))
    tell("verdict", sentence(found))
    tell("next", f"unplateau diagnose --recipe {recipe}")


def row(module: "ModuleGradients") -> tuple[str, int, float, float, float, float, float]:
    """The figures of one module, in the order of COLUMNS."""
    zero = module.zeros / module.parameters
    first, usual = module.norms[0], module.usual_norm
    return module.module, module.parameters, first, usual, module.update_ratios[0], module.usual_ratio, zero


def show(found: "Gradients") -> None:
    """A row per module, from input to output."""
    name_width = max(12, min(max(len(module.module) for module in found.modules), width() - NUMBERS))
    typer.echo(f"{'':<{name_width}}{'gradient norm':>20}{'update ratio':>19}{'zero':>7}")
    typer.echo(f"{'module':<{name_width}}{'first':>11}{'median':>9}{'first':>10}{'median':>9}{'first':>7}")
    for module in found.modules:
        name, _, first, usual, ratio, usual_ratio, zero = row(module)
        short = name if len(name) <= name_width else f"...{name[3 - name_width :]}"
        typer.echo(
            f"{short:<{name_width}}{first:>11.2g}{usual:>9.2g}{ratio:>10.1e}{usual_ratio:>9.1e}{percent(zero):>7}"
        )
    typer.echo(f"\nwhole gradient: {found.total_norms[0]:.3g} at the first step; {len(found.losses)} steps watched\n")


def percent(share: float) -> str:
    """A share; exactly none and exactly all stand out.

    >>> percent(0.0), percent(0.004), percent(1.0)
    ('-', '<1 %', 'all')
    """
    if share in (0.0, 1.0):
        return "all" if share else "-"
    return "<1 %" if share < 0.01 else f"{100 * share:.0f} %"


def sentence(found: "Gradients") -> str:
    """What stands out, in one line."""
    wild = [module.module for module in found.modules if not math.isfinite(sum(module.norms))]
    if wild:
        return f"the gradient of {wild[0]} is not finite: the training diverges"
    still = [module.module for module in found.modules if module.never_moves]
    if still:
        which = "every module" if len(still) == len(found.modules) else ", ".join(still[:3])
        more = f" and {len(still) - 3} more" if 3 < len(still) < len(found.modules) else ""
        return f"no gradient at any step in {which}{more}: nothing is learned there"
    norms = [module.norms[0] for module in found.modules]
    if not min(norms):
        return "some modules have no gradient at the first step, and one later"
    return f"every module has a gradient; the largest norm is {max(norms) / min(norms):.0f} times the smallest"
