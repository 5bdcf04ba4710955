"""One worker process: `python -m experiments.search.worker FOLDER` works on the study whose plan is in FOLDER.

The storage is named by UNPLATEAU_STORAGE, not on the command line: its URL may hold a password. It ends with code 0
when the study is done, with 2 and one line where something is for people to mend, with 130 when it was stopped.
"""

import os
import signal
import sys
import zlib
from pathlib import Path

import torch

from experiments.config import override
from experiments.search.plan import PLAN, Plan, from_text
from experiments.search.space import Changes
from experiments.search.storage import open_storage, quiet
from experiments.search.study import Worker
from experiments.search.trials import Ended, trial_config
from experiments.tracking import ShortRun, chosen_mode, track_group

STORAGE = "UNPLATEAU_STORAGE"
ALONE = "UNPLATEAU_ALONE"
INTERRUPTED = 130


def main(folder: Path) -> int:
    """Work until the study is done; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    parent = os.getppid()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    quiet()
    plan = from_text((folder / PLAN).read_text())
    try:
        storage = open_storage(os.environ.get(STORAGE) or None, folder)
        worker = Worker(plan, storage, folder, spice=spice(), on_end=Teller(plan, folder).tell)
        worker.work(go_on=lambda: os.getppid() == parent)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def spice() -> int:
    """0 for the only worker of a study, whose choices can be made again; otherwise this process's own number."""
    return 0 if ALONE in os.environ else zlib.crc32(f"{os.uname().nodename} {os.getpid()}".encode())


class Teller:
    """Tells Weights & Biases of each trial that is over, as a run in the study's group, tagged by how it ended."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder

    def tell(self, name: str, changes: Changes, ended: Ended, folder: Path) -> None:
        """One run: its settings, its curve over the tokens seen, its ending."""
        if chosen_mode(self.plan.config.track) == "disabled":
            return
        try:
            config = trial_config(self.plan, changes, name=name, seed=self.plan.seed)
        except ValueError:  # values that do not fit each other: there was no run
            return
        group = self.plan.config.track.group or self.plan.name
        track = {"track.group": group, "track.job_type": "trial", "track.tags": (ended.state,)}
        about = {**changes, "state": ended.state, "reason": ended.reason, "parameters": ended.parameters}
        run = ShortRun(name=name, config=about, rows=rows(ended))
        track_group(override(config, track), self.folder, [run], say=lambda line: print(line, file=sys.stderr))


def rows(ended: Ended) -> list[dict[str, int | float]]:
    """What W&B draws: the curve; the last row is its summary."""
    curve: list[dict[str, int | float]] = [
        {"step": tokens, "tokens": tokens, "val/bits_per_byte": loss} for tokens, loss in ended.curve
    ]
    return [*curve[:-1], {**(curve[-1] if curve else {"step": 0}), "seconds": ended.seconds}]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
