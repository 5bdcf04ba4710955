"""One file per fault; ``CATALOGUE`` is the list of them all, sorted by id."""

from diagnostics.fault import Fault
from diagnostics.faults import (
    batch_coupling,
    embedding_scale,
    no_final_norm,
    norm_over_the_wrong_axis,
    positions_added_twice,
    saturated_output,
    softmax_before_cross_entropy,
    vocabulary_too_large,
    whole_sentences_as_tokens,
)

CATALOGUE: tuple[Fault, ...] = (
    batch_coupling.FAULT,
    embedding_scale.FAULT,
    no_final_norm.FAULT,
    norm_over_the_wrong_axis.FAULT,
    positions_added_twice.FAULT,
    saturated_output.FAULT,
    softmax_before_cross_entropy.FAULT,
    vocabulary_too_large.FAULT,
    whole_sentences_as_tokens.FAULT,
)
