"""Before a search: is anything broken that no value of the searched settings can mend?

Only what forward passes show, which takes seconds; hours of trials on a setup that cannot learn are what it saves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from diagnostics.examination import consequences, look
from diagnostics.fault import HARMLESS, Finding, is_alarm
from diagnostics.faults import CATALOGUE
from diagnostics.repair import in_repair_order
from experiments.config import RunConfig, differences
from experiments.search.space import Space
from experiments.subject import REPAIRS, repaired_config, subject_of

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A fault that stands whatever the search tries.

    Args:
        fault: its id in the catalogue.
        title: what is wrong, in a sentence.
        because: the deciding numbers.
        floor: what it keeps the training loss above, in nats per token; None where it puts no floor under it.
    """

    fault: str
    title: str
    because: str
    floor: float | None = None


def broken(config: RunConfig, space: Space, *, progress: Progress = lambda stage, done, of: None) -> list[Broken]:
    """The proofs that forward passes give of this run, in the order of repair, except what the space can change.

    Signs are left out: a rate that looks too high, or a vocabulary too large, is what a search is for.

    Raises:
        ValueError: the run cannot compute its own loss, or its text cannot be read.
    """
    findings = look(subject_of(config), CATALOGUE, seed=config.seed, progress=progress, costs=("forward",))
    followers = {finding.fault.id for finding in consequences(findings)}
    proofs = {
        finding.fault.id: finding
        for finding in findings
        if is_proof(finding) and finding.fault.id not in followers and not can_change(config, space, finding.fault.id)
    }
    order = in_repair_order(finding.fault for finding in proofs.values())
    return [described(proofs[fault]) for fault in order]


def is_proof(finding: Finding) -> bool:
    """Whether something cannot happen in a healthy setup, and touches a loss."""
    fault = finding.fault
    return is_alarm(finding) and fault.grade == "proof" and fault.concerns != "neither" and not is_harmless(finding)


def is_harmless(finding: Finding) -> bool:
    """Whether the fault is present in a form that no loss can show."""
    return HARMLESS in finding.verdict.numbers


def can_change(config: RunConfig, space: Space, fault: str) -> bool:
    """Whether the search varies a setting that removes the fault."""
    if fault not in REPAIRS:
        return False
    removed_by = differences(config, repaired_config(config, frozenset({fault})))
    return bool(removed_by.keys() & names(space))


def names(space: Space) -> set[str]:
    """The settings of a space."""
    return {each.name for each in space}


def described(finding: Finding) -> Broken:
    """A finding as plain data."""
    return Broken(
        fault=finding.fault.id,
        title=finding.fault.card.title,
        because=finding.verdict.because,
        floor=finding.verdict.numbers.get("floor"),
    )


def refusal(found: Iterable[Broken], recipe: str) -> str:
    """What the command line says before it stops."""
    first, *others = found
    beside = f" Beside it: {', '.join(each.fault for each in others)}." if others else ""
    return (
        f"this setup has a {first.fault}, which no value of the searched settings can mend: {first.because}.{beside} "
        f"See unplateau diagnose --recipe {recipe}, or search all the same with --anyway"
    )
