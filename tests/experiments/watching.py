"""`unplateau diagnose` with everything of it but the examination itself: what was seen of a script is written down.

``python watching.py diagnose ...`` is the command; ``python watching.py ORDER.json`` the process that it starts, whose
place it takes. An examination of a real script takes a minute; what happens before and after it does not need one.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from experiments import observed, scripts

SEEN = "seen.json"
PAUSE = "pause"  # a file in the script's folder: the examination takes an hour


def explained(order: observed.Order, recording: Any, tell: observed.Teller) -> None:
    """A made diagnosis, and what was seen beside it."""
    from diagnostics.capture.replica import replica_of
    from tests.diagnoses import healthy

    losses = [sum(float(each.value) for each in window.backwards) for window in recording.windows]
    replica_of(recording)  # refuses what cannot be played
    seen = {"steps": recording.steps, "ending": recording.ending, "said": recording.said, "losses": losses}
    (order.work / SEEN).write_text(json.dumps(seen))
    tell.stage("examining", 0, 2)
    if (Path(order.place) / PAUSE).exists():
        time.sleep(3600)
    observed.write_diagnosis(healthy(), order.work / observed.FOUND)


def command(file: Path) -> list[str]:
    """Instead of `observed.command`."""
    return [sys.executable, "-P", __file__, str(file)]


if __name__ == "__main__":
    if sys.argv[1] == "diagnose":
        from experiments.commands import main

        scripts.command = command
        main()
    else:
        observed.explained = explained
        observed.main()
