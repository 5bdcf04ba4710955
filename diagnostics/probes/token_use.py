"""Which tokens the training batches really hold."""

from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diagnostics.batch_rows import plain
from diagnostics.bench import Bench
from diagnostics.probe import Probe

BATCHES = 32
TOKENS = 200_000
UNKNOWN = (b"unk", b"UNK", b"Unk", b"<oov>", "\ufffd".encode())


@dataclass(frozen=True, kw_only=True)
class TokenUse:
    """The tokens of the first batches, fillers at the ends of rows left out.

    Args:
        tokens: that were counted. ``types``: different ones among them, of ``vocab_size``.
        commonest: share of the most frequent type; ``commonest_id``: which one.
        runs: share of neighbours of that type that are of it too; equal to ``commonest`` where it is strewn at random.
        called_unknown: whether the text view spells it as an unknown token; None without a text view.
    """

    tokens: int
    types: int
    vocab_size: int
    commonest: float
    commonest_id: int
    runs: float
    called_unknown: bool | None


def token_use(bench: Bench) -> TokenUse:
    """How often the tokens of the first batches occur.

    Raises:
        ValueError: they hold nothing but fillers.
    """
    view, text = bench.tokens, bench.subject.text_view
    rows = [plain(view.tokens(batch)).long() for batch in islice(bench.subject.batches(bench.seed), BATCHES)]
    kept = [~filler(each) if view.padding_id is None else each != view.padding_id for each in rows]
    stream = torch.cat([each[keep] for each, keep in zip(rows, kept, strict=True)])[:TOKENS]
    if not len(stream):
        raise ValueError("the first batches hold nothing but fillers; there are no tokens to count")
    types, counts = stream.unique(return_counts=True)
    commonest = int(types[counts.argmax()])
    after = stream[1:][stream[:-1] == commonest]
    spelled = None if text is None else bytes(text.token_bytes[commonest])
    return TokenUse(
        tokens=len(stream),
        types=len(types),
        vocab_size=view.vocab_size,
        commonest=float(counts.max() / len(stream)),
        commonest_id=commonest,
        runs=float((after == commonest).double().mean()) if len(after) else 0.0,
        called_unknown=None if spelled is None else any(name in spelled for name in UNKNOWN),
    )


def filler(rows: Int[Tensor, "batch stream"]) -> Bool[Tensor, "batch stream"]:
    """Where rows are filled up: by a token that stands in unbroken stretches at their ends and nowhere else."""
    last = (rows == rows[:, -1:]).flip(1).long().cumprod(1).flip(1).bool()
    first = (rows == rows[:, :1]).long().cumprod(1).bool()
    at_ends = last | first
    strewn = torch.isin(rows, rows[~at_ends].unique())
    long_enough = (last.sum(1, keepdim=True) > 1) & last | (first.sum(1, keepdim=True) > 1) & first
    return long_enough & ~strewn


TOKEN_USE = Probe(
    name="token-use",
    question="Which tokens do the training batches really hold?",
    measure=token_use,
    needs=("token_view",),
    whole_batches=True,
)
