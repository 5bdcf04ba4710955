"""Repairs: which of the faults can be removed from a subject, and the subject without them."""

from collections.abc import Iterable

from diagnostics.fault import Fault
from diagnostics.subject import Subject


def in_repair_order(faults: Iterable[Fault]) -> tuple[str, ...]:
    """Ids in the order in which a person repairs: what hides other faults first."""
    return tuple(fault.id for fault in sorted(faults, key=lambda fault: (fault.repair_rank, fault.id)))


def repaired(subject: Subject, faults: Iterable[Fault]) -> Subject:
    """The subject with these faults repaired: by its own switches where it has them, otherwise from outside.

    A remedy that finds nothing to change any more, because an earlier one already removed what it is for, is left out.

    Raises:
        ValueError: a fault has neither a switch nor a remedy that this subject can take.
    """
    faults = sorted(faults, key=lambda fault: fault.repair_rank)
    own = frozenset(fault.id for fault in faults) & subject.switches
    result = subject.repair(own) if own and subject.repair is not None else subject
    for fault in faults:
        if fault.id in own:
            continue
        remedy = fault.remedy_for(result)
        if remedy is None:
            raise ValueError(f"no remedy for {fault.id} can act on {subject.name}")
        try:
            result = remedy.apply(result)
        except Exception:  # a remedy looks at a stranger's model, and that may raise anything
            if result is subject:
                raise
    return result


def can_repair(subject: Subject, fault: Fault) -> bool:
    """Whether a trial on this fault can be made at all."""
    if subject.build is None or fault.concerns == "neither" or fault.grade == "explanation":
        return False
    try:
        repaired(subject, [fault])
    except Exception:  # as above
        return False
    return True
