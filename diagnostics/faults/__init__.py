"""One file per fault; ``CATALOGUE`` is the list of them all, sorted by id."""

from diagnostics.fault import Fault
from diagnostics.faults import (
    batch_coupling,
    embedding_scale,
    future_token_leak,
    no_final_norm,
    norm_over_the_wrong_axis,
    positions_added_twice,
    saturated_output,
    softmax_before_cross_entropy,
    targets_not_shifted,
    vocabulary_too_large,
    whole_sentences_as_tokens,
)

CATALOGUE: tuple[Fault, ...] = (
    batch_coupling.FAULT,
    embedding_scale.FAULT,
    future_token_leak.FAULT,
    no_final_norm.FAULT,
    norm_over_the_wrong_axis.FAULT,
    positions_added_twice.FAULT,
    saturated_output.FAULT,
    softmax_before_cross_entropy.FAULT,
    targets_not_shifted.FAULT,
    vocabulary_too_large.FAULT,
    whole_sentences_as_tokens.FAULT,
)
