"""One file per fault; ``CATALOGUE`` is the list of them all, sorted by id."""

from diagnostics.fault import Fault
from diagnostics.faults import (
    at_the_entropy_floor,
    batch_coupling,
    embedding_scale,
    future_token_leak,
    generation_differs_from_training,
    history_keeps_the_graph,
    needs_more_steps,
    no_final_norm,
    no_output_projection,
    norm_over_the_wrong_axis,
    position_blind,
    positions_added_twice,
    saturated_output,
    softmax_before_cross_entropy,
    targets_not_shifted,
    vocabulary_too_large,
    whole_sentences_as_tokens,
)

CATALOGUE: tuple[Fault, ...] = (
    at_the_entropy_floor.FAULT,
    batch_coupling.FAULT,
    embedding_scale.FAULT,
    future_token_leak.FAULT,
    generation_differs_from_training.FAULT,
    history_keeps_the_graph.FAULT,
    needs_more_steps.FAULT,
    no_final_norm.FAULT,
    no_output_projection.FAULT,
    norm_over_the_wrong_axis.FAULT,
    position_blind.FAULT,
    positions_added_twice.FAULT,
    saturated_output.FAULT,
    softmax_before_cross_entropy.FAULT,
    targets_not_shifted.FAULT,
    vocabulary_too_large.FAULT,
    whole_sentences_as_tokens.FAULT,
)
