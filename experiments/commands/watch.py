"""`unplateau watch`: run a script to its own end, and warn when something is wrong with it."""

import sys
from typing import Annotated

import typer

from experiments.commands.console import OutOption, WandbOption, results_folder
from experiments.commands.script_command import ScriptsArguments, script_at


def watch(
    target: Annotated[str, typer.Argument(metavar="SCRIPT.py", help="Your training script, unmodified.")],
    arguments: ScriptsArguments = None,
    out: OutOption = None,
    wandb: WandbOption = "auto",
    diagnose: Annotated[
        bool, typer.Option("--diagnose", help="Examine the run, trials included, once it has ended.")
    ] = False,
) -> None:
    """Run your training script to its own end, and warn in one line when something is wrong with it.

    It trains for real: its files, its W&B, its output and its exit code are its own. A step takes about 2 % longer
    where it takes 0.3 seconds, and 0.3 ms longer in a toy. Beside it, in ./runs: gradient norms, loss and levels
    (metrics.jsonl, and a W&B run of our own), a summary, and a report of what holds up a loss that stands still.
    """
    from experiments.beside import Beginning
    from experiments.config import TrackConfig
    from experiments.watched import watched

    script = script_at(target)
    folder = results_folder(out, f"watch-{script.stem}").resolve()
    TrackConfig(mode=wandb)  # type: ignore[arg-type]  # refuses what is no mode
    folder.mkdir(parents=True, exist_ok=True)
    beginning = Beginning(name=script.name, folder=str(folder), mode=wandb)
    sys.exit(watched(script, tuple(arguments or ()), beginning, diagnose=diagnose))
