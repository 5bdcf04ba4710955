"""Make the token vectors larger or smaller where they leave the embedding table."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.stream_scale import StreamScale, counts_positions, stream_scale
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls


class ScaledTokens(TorchCalls):
    """While active, embedded tokens (not positions) are multiplied by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen; multiply what an embedding of tokens gives."""
        result = func(*args, **kwargs)
        if func is F.embedding and not counts_positions(args[0] if args else kwargs["input"]):
            return result * self.factor
        return result


def scale_embedding(factor: float) -> Intervention:
    """Token vectors times ``factor``, from outside; the table, and a head tied to it, stay as they are."""
    return Intervention(
        name="scale-embedding",
        does=f"multiply embedded tokens by {factor:.3g}",
        apply=lambda subject: surrounded(subject, lambda model, batch: ScaledTokens(factor)),
    )


def scale_at_entry(subject: Subject) -> StreamScale:
    """The subject's stream scale.

    Raises:
        ValueError: no embedded tokens were seen on their way into the model.
    """
    with open_bench(subject, 0) as bench:
        scale = stream_scale(bench)
    if not scale.token_rms:
        raise ValueError(f"{subject.name} embeds no tokens that reach a module; this change needs an embedding")
    return scale
