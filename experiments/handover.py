"""A diagnosis handed from one process to another as a file; faults go by their names, their functions are no data."""

import copyreg
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagnostics import Diagnosis, Fault


def write_diagnosis(found: "Diagnosis", file: Path) -> None:
    """Write it whole."""
    from diagnostics import Fault

    copyreg.pickle(Fault, lambda fault: (fault_named, (fault.id,)))
    with file.open("wb") as stream:
        pickle.dump(found, stream)


def read_diagnosis(file: Path) -> "Diagnosis":
    """Read one that this program wrote, and remove the file."""
    with file.open("rb") as stream:
        found: Diagnosis = pickle.load(stream)
    file.unlink()
    return found


def fault_named(name: str) -> "Fault":
    """The catalogue's fault of this name."""
    from diagnostics import CATALOGUE

    return next(fault for fault in CATALOGUE if fault.id == name)
