"""Masks and softmaxes as strangers write them: each mistake is named, and its corrected twin is left alone."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import (
    attention_softmax_over_the_wrong_axis,
    inverted_mask,
    mask_added_after_the_softmax,
    mask_hides_the_token_itself,
    mask_too_weak,
)
from diagnostics.probe import read
from diagnostics.probes.attention_weights import ATTENTION_WEIGHTS
from tests import subjects
from tests.diagnostics.strange_attention import Weigh, causal, hand_written, language_model

AXIS = attention_softmax_over_the_wrong_axis.FAULT
INVERTED = inverted_mask.FAULT
LATE = mask_added_after_the_softmax.FAULT
ITSELF = mask_hides_the_token_itself.FAULT
WEAK = mask_too_weak.FAULT
ALL = (AXIS, INVERTED, LATE, ITSELF, WEAK)

VerdictOf = Callable[..., Verdict]


def tril(scores: Float[Tensor, "... query key"]) -> Float[Tensor, "query key"]:
    return torch.tril(torch.ones(scores.shape[-2:]))


def ahead(scores: Float[Tensor, "... query key"]) -> Float[Tensor, "query key"]:
    return torch.triu(torch.ones(scores.shape[-2:]), diagonal=1)


def renormalised(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    weights = scores.softmax(-1) * tril(scores)
    return weights / weights.sum(-1, keepdim=True)


def in_place(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    scores.masked_fill_(tril(scores) == 0, -1e9)
    return F.softmax(scores, dim=3)


def exponentials(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    raised = torch.exp(scores.masked_fill(tril(scores) == 0, float("-inf")))
    return raised / raised.sum(-1, keepdim=True)


HEALTHY: dict[str, Weigh] = {
    "minus infinity": causal,
    "in place": in_place,
    "additive": lambda s: (s + ahead(s) * -1e9).softmax(-1),
    "half precision's least": lambda s: s.masked_fill(tril(s) == 0, -1e4).softmax(-1),
    "where": lambda s: torch.where(tril(s).bool(), s, torch.tensor(torch.finfo(s.dtype).min)).softmax(-1),
    "product and sum": lambda s: torch.softmax(s * tril(s) - 1e10 * (1 - tril(s)), dim=-1),
    "masked again": lambda s: causal(s).masked_fill(ahead(s) == 1, 0.0),
    "renormalised": renormalised,
    "exponentials": exponentials,
    "no mask at all": lambda s: s.softmax(-1),
    "a window": lambda s: causal(s.masked_fill(torch.ones(s.shape[-2:]).tril(-5) == 1, -1e9)),
    "a bias by distance": lambda s: causal(s + torch.arange(s.shape[-1]) * 0.5),
}
WRONG: dict[str, tuple[Fault, Weigh]] = {
    "over queries": (AXIS, lambda s: s.masked_fill(tril(s) == 0, -1e9).softmax(-2)),
    "over heads": (AXIS, lambda s: F.softmax(s, dim=1)),
    "over the batch": (AXIS, lambda s: nn.Softmax(dim=0)(s.masked_fill(tril(s) == 0, -1e9))),
    "of transposed scores": (AXIS, lambda s: torch.softmax(s.transpose(-2, -1), dim=-1).transpose(-2, -1)),
    "masked where tril is one": (INVERTED, lambda s: s.masked_fill(tril(s) == 1, -1e9).softmax(-1)),
    "masked where tril is one, -inf": (INVERTED, lambda s: s.masked_fill(tril(s) == 1, float("-inf")).softmax(-1)),
    "triu for tril": (INVERTED, lambda s: (s + (1 - torch.triu(torch.ones(s.shape[-2:]))) * -1e9).softmax(-1)),
    "where the wrong way": (INVERTED, lambda s: torch.where(tril(s).bool(), -1e9, s).softmax(-1)),
    "diagonal 0": (ITSELF, lambda s: s.masked_fill(torch.triu(torch.ones(s.shape[-2:])) == 1, -1e9).softmax(-1)),
    "diagonal 0, -inf": (
        ITSELF,
        lambda s: s.masked_fill(torch.triu(torch.ones(s.shape[-2:])).bool(), -torch.inf).softmax(-1),
    ),
    "tril(-1)": (ITSELF, lambda s: s.masked_fill(torch.tril(torch.ones(s.shape[-2:]), -1) == 0, -1e9).softmax(-1)),
    "zeroed after": (LATE, lambda s: s.softmax(-1).masked_fill(tril(s) == 0, 0.0)),
    "multiplied after": (LATE, lambda s: s.softmax(-1) * tril(s)),
    "-1e9 after": (LATE, lambda s: s.softmax(-1).masked_fill(tril(s) == 0, -1e9)),
    "-inf added after": (LATE, lambda s: s.softmax(-1) + ahead(s).masked_fill(ahead(s) == 1, float("-inf"))),
    "-1e-9": (WEAK, lambda s: s.masked_fill(tril(s) == 0, -1e-9).softmax(-1)),
    "1e-9": (WEAK, lambda s: s.masked_fill(tril(s) == 0, 1e-9).softmax(-1)),
    "0": (WEAK, lambda s: s.masked_fill(tril(s) == 0, 0).softmax(-1)),
    "multiplied before": (WEAK, lambda s: (s * tril(s)).softmax(-1)),
    "ones added": (WEAK, lambda s: (s + tril(s)).softmax(-1)),
    "-1e-9 added": (WEAK, lambda s: (s + ahead(s) * -1e-9).softmax(-1)),
}


@pytest.mark.parametrize("einsum", [False, True])
@pytest.mark.parametrize("name", HEALTHY)
def test_sound_masks_raise_no_alarm(name: str, einsum: bool, verdict_of: VerdictOf) -> None:
    subject = hand_written(HEALTHY[name], einsum)
    assert [fault.id for fault in ALL if verdict_of(fault, subject).status == "present"] == []


@pytest.mark.parametrize("einsum", [False, True])
@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_named_and_nothing_else(name: str, einsum: bool, verdict_of: VerdictOf) -> None:
    fault, weigh = WRONG[name]
    subject = hand_written(weigh, einsum)
    assert [each.id for each in ALL if verdict_of(each, subject).status == "present"] == [fault.id]


@pytest.mark.parametrize("name", [name for name in WRONG if name != "of transposed scores"])  # its layout is its own
def test_the_remedy_removes_it(name: str, verdict_of: VerdictOf) -> None:
    fault, weigh = WRONG[name]
    cured = fault.remedies[0].apply(hand_written(weigh))
    assert verdict_of(fault, cured).status != "present"
    assert torch.isfinite(cured.loss(cured.model, next(cured.batches(0))))


class TorchMask(nn.Module):
    """torch's encoder layer under a mask that the test makes."""

    def __init__(self, mask: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.mask = mask
        self.embedding = nn.Embedding(subjects.VOCAB, 14)
        self.layer = nn.TransformerEncoderLayer(14, 2, 29, batch_first=True)
        self.head = nn.Linear(14, subjects.VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens), src_mask=self.mask(tokens.shape[1])))


class DotProductMask(nn.Module):
    """scaled_dot_product_attention under a mask that the test makes."""

    def __init__(self, mask: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.mask = mask
        self.embedding = nn.Embedding(subjects.VOCAB, 14)
        self.qkv, self.head = nn.Linear(14, 42), nn.Linear(14, subjects.VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (x.unflatten(-1, (2, 7)).transpose(1, 2) for x in self.qkv(self.embedding(tokens)).chunk(3, -1))
        mask = self.mask(tokens.shape[1])
        return self.head(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


TORCH: dict[str, tuple[type[nn.Module], Fault | None, Callable[[int], Tensor]]] = {
    "module, -inf": (TorchMask, None, nn.Transformer.generate_square_subsequent_mask),
    "module, boolean": (TorchMask, None, lambda n: torch.triu(torch.ones(n, n), 1).bool()),
    "module, tril": (TorchMask, INVERTED, lambda n: torch.tril(torch.ones(n, n)).bool()),
    "module, floats": (TorchMask, WEAK, lambda n: torch.tril(torch.ones(n, n))),
    "module, diagonal": (TorchMask, ITSELF, lambda n: torch.triu(torch.ones(n, n)).bool()),
    "function, boolean": (DotProductMask, None, lambda n: torch.tril(torch.ones(n, n)).bool()),
    "function, triu": (DotProductMask, INVERTED, lambda n: torch.triu(torch.ones(n, n), 1).bool()),
    "function, floats": (DotProductMask, WEAK, lambda n: torch.tril(torch.ones(n, n))),
    "function, diagonal": (DotProductMask, ITSELF, lambda n: torch.tril(torch.ones(n, n), -1).bool()),
}


@pytest.mark.parametrize("name", TORCH)
def test_masks_of_torch_s_own_attention_are_read_as_torch_reads_them(name: str, verdict_of: VerdictOf) -> None:
    kind, fault, mask = TORCH[name]
    subject = language_model(lambda: kind(mask))
    found = [each.id for each in ALL if verdict_of(each, subject).status == "present"]
    assert found == ([] if fault is None else [fault.id])


def test_weights_are_those_of_torch() -> None:
    given = hand_written(causal)
    other = hand_written(lambda scores: causal(scores))
    first = read(ATTENTION_WEIGHTS, given, 0).measurement
    assert first == read(ATTENTION_WEIGHTS, other, 0).measurement
    assert {each.form for each in first.attentions} == {"written out"}
    assert [(each.past, each.own, each.future) for each in first.attentions] == [(1.0, 1.0, 0.0)] * 2
