"""One file per fault; ``CATALOGUE`` is the list of them all, sorted by id."""

from diagnostics.fault import Fault
from diagnostics.faults import (
    batch_coupling,
    norm_over_the_wrong_axis,
    softmax_before_cross_entropy,
    vocabulary_too_large,
    whole_sentences_as_tokens,
)

CATALOGUE: tuple[Fault, ...] = (
    batch_coupling.FAULT,
    norm_over_the_wrong_axis.FAULT,
    softmax_before_cross_entropy.FAULT,
    vocabulary_too_large.FAULT,
    whole_sentences_as_tokens.FAULT,
)
