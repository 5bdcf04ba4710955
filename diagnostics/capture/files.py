"""A script's own files stay as they are: a journal of what it touches, or a copy to run in.

`Journal` keeps what exists before the script changes it, `restore` puts it back, `scratch_copy` gives the script a
folder of its own. Why a journal: `docs/decisions/0008-a-scripts-files.md`.
"""

from diagnostics.capture.folders import Snapshot, Territory, changes, scratch_copy, snapshot
from diagnostics.capture.journal import Journal
from diagnostics.capture.records import Written
from diagnostics.capture.restoring import Restored, restore

__all__ = [
    "Journal",
    "Restored",
    "Snapshot",
    "Territory",
    "Written",
    "changes",
    "restore",
    "scratch_copy",
    "snapshot",
]
