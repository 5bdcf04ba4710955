"""Encoder-decoders as strangers write them: some never look at the source, others only do not yet."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.fault import Verdict
from diagnostics.faults import memory_not_used
from diagnostics.subject import Subject
from tests import subjects

UNUSED = memory_not_used.FAULT
KINDS, WIDTH, SOURCE_LEN, TARGET_LEN = 17, 14, 5, 7

VerdictOf = Callable[..., Verdict]


class Reader(nn.Module):
    """A GRU reads, a GRU with an attention writes; ``way`` says what the attention is given."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.source_table, self.target_table = nn.Embedding(KINDS, WIDTH), nn.Embedding(KINDS, WIDTH)
        self.encoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.decoder = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.gate = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(WIDTH, KINDS)
        if way == "zero projection":
            nn.init.zeros_(self.attention.out_proj.weight)

    def forward(
        self, source: Int[Tensor, "batch source_len"], target: Int[Tensor, "batch target_len"]
    ) -> Float[Tensor, "batch target_len kinds"]:
        x, state = self.decoder(self.target_table(target))[0], None
        if self.way == "encoder never called":
            return self.head(x + self.attention(x, x, x, is_causal=True, attn_mask=ahead(x))[0])
        memory, state = self.encoder(self.source_table(source))
        if self.way == "last state":
            return self.head(self.decoder(self.target_table(target), state)[0])
        if self.way == "state dropped":
            return self.head(x)
        if self.way == "keys of the decoder":
            return self.head(x + self.attention(x, x, x, is_causal=True, attn_mask=ahead(x))[0])
        if self.way == "output dropped":
            self.attention(x, memory, memory)
            return self.head(x)
        read = self.attention(x, memory, memory)[0]
        return self.head(x + (self.gate * read if self.way == "gate at zero" else read))


def ahead(x: Float[Tensor, "batch length width"]) -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(x.shape[1])


def pairs(seed: int) -> Iterator[tuple[Int[Tensor, "batch source_len"], Int[Tensor, "batch target_len"]]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        source = torch.randint(3, KINDS, (11, SOURCE_LEN), generator=generator)
        yield source, F.pad(F.pad(source.flip(1), (1, 0), value=1), (0, 1), value=2)


def translated(way: str) -> Subject:
    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        return F.cross_entropy(model(batch[0], batch[1][:, :-1]).flatten(0, 1), batch[1][:, 1:].flatten())

    build = subjects.seeded(lambda: Reader(way))
    return Subject(
        name=way,
        model=build(0),
        build=build,
        loss=loss,
        batches=pairs,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
    )


@pytest.mark.parametrize("way", ["attention", "last state", "gate at zero", "zero projection"])
def test_a_source_that_is_read_raises_no_alarm(way: str, verdict_of: VerdictOf) -> None:
    assert verdict_of(UNUSED, translated(way)).status == "absent"


@pytest.mark.parametrize("way", ["keys of the decoder", "encoder never called", "state dropped"])
def test_a_source_that_is_not_read_is_named(way: str, verdict_of: VerdictOf) -> None:
    verdict = verdict_of(UNUSED, translated(way))
    assert verdict.status == "present"
    assert "no attention has keys of its length" in verdict.because


def test_a_memory_that_is_read_and_thrown_away_is_named(verdict_of: VerdictOf) -> None:
    assert verdict_of(UNUSED, translated("output dropped")).status == "present"


@pytest.mark.parametrize("name", ["seq2seq", "nn-transformer", "t5"])
def test_plants_are_found(name: str, verdict_of: VerdictOf) -> None:
    subject = subjects.HEALTHY[name]()
    assert verdict_of(UNUSED, subject).status == "absent"
    assert verdict_of(UNUSED, memory_not_used.plant(subject)).status == "present"


@pytest.mark.parametrize("name", ["gru", "bert", "mlp", "encoder-decoder"])
def test_other_models_have_no_memory(name: str, verdict_of: VerdictOf) -> None:
    assert verdict_of(UNUSED, subjects.HEALTHY[name]()).status in ("not tested", "absent")


def test_a_plant_needs_a_memory() -> None:
    with pytest.raises(ValueError, match="another number of keys"):
        memory_not_used.plant(subjects.HEALTHY["torch-encoder"]())
