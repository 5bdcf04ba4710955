"""One file per fault; ``CATALOGUE`` is the list of them all, sorted by id."""

from diagnostics.fault import Fault
from diagnostics.faults import softmax_before_cross_entropy

CATALOGUE: tuple[Fault, ...] = (softmax_before_cross_entropy.FAULT,)
