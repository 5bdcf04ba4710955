"""What is under diagnosis: a training setup, described by what it can do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = Any
"""Whatever the subject's own loss takes: a tensor, a tuple, a dict. Nothing here looks inside it."""


@dataclass(frozen=True, kw_only=True)
class TokenView:
    """How to read and edit the token stream behind a batch: "I am a language model".

    Args:
        vocab_size: number of token types, the width of the logits.
        tokens: the raw stream behind a batch; one token longer than the logits where targets are the next token.
        with_tokens: the same batch made from another stream of the same shape.
        logits: what the model hands to the loss; ``logits[:, t]`` predicts ``targets[:, t]``.
        targets: the tokens that the loss compares with.
        ignored: True where the loss leaves a target out. None: nowhere.
        next_logits: scores of the next token after a context, computed the way the user generates text; their
            log-softmax is the distribution that is sampled from. None: generation is not tested.
        padding_id: the id that fills rows up to one length. None: nobody said so; probes that need it look for it.
    """

    vocab_size: int
    tokens: Callable[[Batch], Int[Tensor, "batch stream"]]
    with_tokens: Callable[[Batch, Int[Tensor, "batch stream"]], Batch]
    logits: Callable[[nn.Module, Batch], Float[Tensor, "batch time vocab"]]
    targets: Callable[[Batch], Int[Tensor, "batch time"]]
    ignored: Callable[[Batch], Bool[Tensor, "batch time"]] | None = None
    next_logits: Callable[[nn.Module, Int[Tensor, "batch context"]], Float[Tensor, "batch vocab"]] | None = None
    padding_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextView:
    """The text behind the tokens: "my tokens are pieces of text".

    Args:
        token_bytes: the bytes of each token id, in order of the ids.
        train_tokens: the training text as one stream of ids.
        heldout_tokens: the text kept apart, in the same ids.
        heldout_bytes: length of the held-out text in bytes; turns nats per token into bits per byte.
    """

    token_bytes: Sequence[bytes]
    train_tokens: Int[Tensor, " train_tokens"]
    heldout_tokens: Int[Tensor, " heldout_tokens"]
    heldout_bytes: int


@dataclass(frozen=True, kw_only=True)
class LossHistory:
    """The curve that stopped falling, as the user's script kept it.

    Args:
        losses: one training loss per optimizer step, oldest first, in nats per token for a language model. Tensors
            are kept as they are: a tensor with a graph behind it is itself a finding.
    """

    losses: tuple[float | Tensor, ...]

    def values(self) -> list[float]:
        """The losses as plain numbers."""
        return [float(loss.detach()) if isinstance(loss, Tensor) else float(loss) for loss in self.losses]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A training setup under diagnosis: model, loss, data, optimizer, and optional capabilities.

    Args:
        model: the model in the state in which its loss stands. Never changed; probes work on copies.
        loss: the scalar that is minimised, as the user computes it.
        batches: seed -> a fresh pass over the training batches.
        optimizer: model -> an optimizer with the user's settings, over the user's choice of parameters.
        build: seed -> a freshly initialised model. Without it there are no trials.
        schedule: step -> factor on the learning rate. None: constant.
        clip_norm: largest gradient norm, as the user clips it. None: no clipping.
        heldout: seed -> a pass over batches that are never trained on.
        step: one optimizer step as the user's loop makes it: (model, optimizer, batch) -> the loss, with its own
            zero_grad, backward, clipping and optimizer.step; a batch that it splits up is its own affair. None: the
            usual order (zero_grad, loss, backward, clip, step).
        evaluate: model -> the validation loss as the user computes it, with whatever switches of mode belong to it.
        whole_data: whether ``batches`` gives all of the training data. False: a sample, such as one batch, from which
            nothing follows about order, repetition or size of the data.
        history: the curve that stopped falling.
        token_view: present for language models.
        text_view: present where tokens are pieces of text.
        batch_axis: the axis of the samples in the model's inputs and outputs (1 for time-first).
        switches: ids of the faults that this setup's own configuration can switch off (and on).
        repair: the same setup with those switches set right; takes a subset of ``switches``.
        name: what reports call it.
        lacks: why a capability is not there, by the name of its field, as far as somebody knows.
        notes: how this subject came about, a sentence each, for the report.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Batch], Float[Tensor, ""]]
    batches: Callable[[int], Iterator[Batch]]
    optimizer: Callable[[nn.Module], Optimizer]
    build: Callable[[int], nn.Module] | None = None
    schedule: Callable[[int], float] | None = None
    clip_norm: float | None = None
    heldout: Callable[[int], Iterator[Batch]] | None = None
    step: Callable[[nn.Module, Optimizer, Batch], Float[Tensor, ""]] | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    whole_data: bool = True
    history: LossHistory | None = None
    token_view: TokenView | None = None
    text_view: TextView | None = None
    batch_axis: int = 0
    switches: frozenset[str] = field(default_factory=frozenset)
    repair: Callable[[frozenset[str]], "Subject"] | None = None
    name: str = "subject"
    lacks: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def missing(self, needs: Sequence[str]) -> str | None:
        """Why this subject cannot serve something that needs these capabilities; None if it can."""
        for need in needs:
            holder, _, part = need.partition(".")
            value = getattr(self, holder)
            if value is None:
                why = f": {self.lacks[holder]}" if holder in self.lacks else ""
                return f"this subject has no {holder.replace('_', ' ')}{why}"
            if part and getattr(value, part) is None:
                return f"this subject's {holder.replace('_', ' ')} has no {part}"
        return None
