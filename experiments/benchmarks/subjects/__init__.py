"""Healthy subjects to plant faults in: no probe may raise an alarm on any of them.

All of them learn something that can be worked out, in about a hundred steps of a few milliseconds. Each takes its sizes
as arguments. Those from Hugging Face need ``transformers``, which is imported only when one of them is made.
"""

from collections.abc import Callable
from dataclasses import replace

from diagnostics.subject import LossHistory, Subject
from experiments.benchmarks.subjects.markov import (
    BATCH,
    BATCHES_PER_PASS,
    BRANCHES,
    CONTEXT,
    HELDOUT,
    LOWEST_LOSS,
    TRAIN,
    VOCAB,
    language_model,
    markov_stream,
    next_token_loss,
    seeded,
    windows,
)
from experiments.benchmarks.subjects.next_token import (
    GruLM,
    TorchEncoderLM,
    decoder_only,
    encoder_decoder,
    gpt2,
    gru,
    torch_encoder,
)
from experiments.benchmarks.subjects.other_models import bert, mlp, regression, vision
from experiments.benchmarks.subjects.translation import nn_transformer, seq2seq, t5

__all__ = [
    "BATCH",
    "BATCHES_PER_PASS",
    "BRANCHES",
    "CONTEXT",
    "HEALTHY",
    "HELDOUT",
    "LOWEST_LOSS",
    "NORM_FIRST",
    "SIZED",
    "TRAIN",
    "VOCAB",
    "GruLM",
    "TorchEncoderLM",
    "bert",
    "decoder_only",
    "encoder_decoder",
    "gpt2",
    "gru",
    "language_model",
    "markov_stream",
    "mlp",
    "next_token_loss",
    "nn_transformer",
    "regression",
    "seeded",
    "seq2seq",
    "t5",
    "torch_encoder",
    "vision",
    "windows",
    "with_history",
]

SIZED: dict[str, Callable[..., Subject]] = {
    "torch-encoder": torch_encoder,
    "gru": gru,
    "gpt2": gpt2,
    "decoder-only": decoder_only,
    "seq2seq": seq2seq,
    "nn-transformer": nn_transformer,
    "t5": t5,
    "bert": bert,
    "vision": vision,
    "mlp": mlp,
    "regression": regression,
}
"""Subjects that take width, layers, dropout and lr (those of ``NORM_FIRST`` that too)."""

NORM_FIRST = ("torch-encoder", "decoder-only", "seq2seq", "nn-transformer", "vision")

HEALTHY: dict[str, Callable[[], Subject]] = {"encoder-decoder": encoder_decoder, **SIZED}


def with_history(subject: Subject, losses: list[float]) -> Subject:
    """The same subject with a loss curve."""
    return replace(subject, history=LossHistory(losses=tuple(losses)))
