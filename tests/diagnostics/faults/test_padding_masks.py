"""Padding as strangers treat it: what attention must not see, in several styles, with and without the mistake."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import padding_mask_inverted, padding_mask_missing
from diagnostics.subject import Subject
from tests import subjects

MISSING, INVERTED = padding_mask_missing.FAULT, padding_mask_inverted.FAULT
PAD, KINDS, LONGEST, WIDTH = 0, 13, 11, 14
HEALTHY = {name: make for name, make in subjects.HEALTHY.items() if name in ("bert", "gru", "mlp", "seq2seq", "t5")}

VerdictOf = Callable[..., Verdict]
IsHidden = Callable[[Tensor], Tensor]
"""ids (batch, length) -> which of them the model's code takes for padding."""


def right(ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    return ids == PAD


def wrong(ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    return ids != PAD


def none(ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch length"]:
    return torch.zeros_like(ids, dtype=torch.bool)


class Tagger(nn.Module):
    """Says something about each token of a padded text; attention by hand, ``style`` says how."""

    def __init__(self, hidden: IsHidden, style: str, padding_idx: int | None = PAD) -> None:
        super().__init__()
        self.hidden, self.style = hidden, style
        self.table = nn.Embedding(KINDS, WIDTH, padding_idx=padding_idx)
        self.places = nn.Parameter(torch.randn(LONGEST, WIDTH))
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 17, batch_first=True)
        self.head = nn.Linear(WIDTH, KINDS)

    def attend(
        self, x: Float[Tensor, "batch length width"], hidden: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length width"]:
        q, k, v = (each(x).unflatten(-1, (2, 7)).transpose(1, 2) for each in (self.q, self.k, self.v))
        if self.style == "function":
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=~hidden[:, None, None])
        elif self.style == "flat heads":
            q, k, v = (each.flatten(0, 1) for each in (q, k, v))
            scores = torch.bmm(q, k.transpose(1, 2)) / 7**0.5
            scores = scores.masked_fill(hidden.repeat_interleave(2, 0)[:, None], float("-inf"))
            mixed = torch.bmm(scores.softmax(-1), v).unflatten(0, (-1, 2))
        else:
            added = hidden[:, None, None].float() * -1e9
            mixed = torch.einsum("bhqk,bhkd->bhqd", (q @ k.mT / 7**0.5 + added).softmax(-1), v)
        return self.o(mixed.transpose(1, 2).flatten(2))

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length kinds"]:
        x, hidden = self.table(ids) + self.places[: ids.shape[1]], self.hidden(ids)
        if self.style == "module":
            return self.head(self.layer(x, src_key_padding_mask=hidden))
        return self.head(x + self.attend(x, hidden))


class CausalGru(nn.Module):
    """A recurrent model, and a causal attention over it, of rows padded behind: nothing to hide."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(KINDS, WIDTH, padding_idx=PAD)
        self.layer, self.head = nn.GRU(WIDTH, WIDTH, batch_first=True), nn.Linear(WIDTH, KINDS)

    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length kinds"]:
        x = self.layer(self.table(ids))[0]
        return self.head(F.scaled_dot_product_attention(x, x, x, is_causal=True))


def texts(seed: int, *, left: bool = False, full: bool = False) -> Iterator[Int[Tensor, "batch length"]]:
    """Random texts of 3 to 11 tokens, padded behind or before."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        ids = torch.randint(1, KINDS, (7, LONGEST), generator=generator)
        lengths = torch.randint(3, LONGEST + 1, (7, 1), generator=generator)
        padded = torch.where(torch.arange(LONGEST) < lengths, ids, PAD)
        yield ids if full else padded.flip(1) if left else padded


def tagged(make: Callable[[], nn.Module], *, ignore: bool = False, left: bool = False, full: bool = False) -> Subject:
    """A subject that names each token again; ``ignore``: its loss leaves padding out."""

    def loss(model: nn.Module, ids: Tensor) -> Float[Tensor, ""]:
        return F.cross_entropy(model(ids).flatten(0, 1), ids.flatten(), ignore_index=PAD if ignore else -100)

    build = subjects.seeded(make)
    return Subject(
        name="tagger",
        model=build(0),
        build=build,
        loss=loss,
        batches=lambda seed: texts(seed, left=left, full=full),
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=3e-3),
    )


def found(subject: Subject, verdict_of: VerdictOf) -> list[str]:
    return [fault.id for fault in (MISSING, INVERTED) if verdict_of(fault, subject).status == "present"]


STYLES = ("function", "flat heads", "added", "module")


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_padding_that_is_hidden_raises_no_alarm(style: str, left: bool, verdict_of: VerdictOf) -> None:
    subject = tagged(lambda: Tagger(right, style), left=left)
    assert found(subject, verdict_of) == []
    assert verdict_of(MISSING, subject).status == "absent"


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_padding_that_is_seen_is_named(style: str, left: bool, verdict_of: VerdictOf) -> None:
    subject = tagged(lambda: Tagger(none, style), left=left)
    assert found(subject, verdict_of) == ["padding-mask-missing"]
    assert found(MISSING.remedies[0].apply(subject), verdict_of) == []


@pytest.mark.parametrize("style", STYLES)
def test_a_mask_that_hides_the_text_is_named(style: str, verdict_of: VerdictOf) -> None:
    subject = tagged(lambda: Tagger(wrong, style))
    assert found(subject, verdict_of) == ["padding-mask-inverted"]
    cured = INVERTED.remedies[0].apply(subject)
    assert found(cured, verdict_of) == []
    assert torch.isfinite(cured.loss(cured.model, next(cured.batches(0))))


def test_rows_that_are_all_filled_say_nothing(verdict_of: VerdictOf) -> None:
    subject = tagged(lambda: Tagger(none, "added"), full=True)
    assert {verdict_of(fault, subject).status for fault in (MISSING, INVERTED)} == {"not tested"}


def test_an_id_that_nobody_calls_padding_is_not_judged(verdict_of: VerdictOf) -> None:
    subject = tagged(lambda: Tagger(none, "added", padding_idx=None))
    assert verdict_of(MISSING, subject).status == "unclear"
    assert found(tagged(lambda: Tagger(none, "added", padding_idx=None), ignore=True), verdict_of) == [MISSING.id]


def test_a_model_that_looks_back_does_not_see_padding_behind(verdict_of: VerdictOf) -> None:
    assert found(tagged(CausalGru), verdict_of) == []


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_subjects_raise_no_alarm(name: str, verdict_of: VerdictOf) -> None:
    assert found(HEALTHY[name](), verdict_of) == []


@pytest.mark.parametrize("fault", [MISSING, INVERTED], ids=lambda fault: fault.id)
@pytest.mark.parametrize("name", ["seq2seq", "nn-transformer", "t5"])
def test_plants_are_found_without_a_token_view_and_removed(name: str, fault: Fault, verdict_of: VerdictOf) -> None:
    assert fault.plant is not None
    planted = fault.plant(subjects.HEALTHY[name]())
    assert found(planted, verdict_of) == [fault.id]
    assert found(fault.remedies[0].apply(planted), verdict_of) == []
    bare = replace(planted, token_view=None)
    assert found(bare, verdict_of) == [fault.id]


def test_a_plant_needs_padding() -> None:
    with pytest.raises(ValueError, match="known to be padded"):
        padding_mask_missing.plant(subjects.HEALTHY["mlp"]())
