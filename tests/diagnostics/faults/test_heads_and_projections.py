"""Heads, scales and projections as strangers write them: each mistake is named, its corrected twin is left alone."""

from collections.abc import Callable

import pytest
from torch import Tensor, nn

from diagnostics.fault import Fault, Verdict
from diagnostics.faults import heads_mixed_by_a_view, query_key_value_shared, scores_not_scaled
from tests import subjects
from tests.diagnostics.strange_attention import causal, language_model

MIXED, SHARED, UNSCALED = heads_mixed_by_a_view.FAULT, query_key_value_shared.FAULT, scores_not_scaled.FAULT
ALL = (MIXED, SHARED, UNSCALED)


class Stranger(nn.Module):
    """Three heads of seven; ``mistake`` says what is written wrongly."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake
        self.embedding, self.norm = nn.Embedding(subjects.VOCAB, 21), nn.LayerNorm(21)
        self.query, self.key, self.value, self.output = (nn.Linear(21, 21) for _ in range(4))
        self.head = nn.Linear(21, subjects.VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        normal = self.norm(x)
        key = self.query if self.mistake == "shared" else self.key
        query, keys, values = (self.split(each(normal)) for each in (self.query, key, self.value))
        if self.mistake == "scaled before":
            query = query / 7**0.5
        scores = query @ keys.transpose(-2, -1)
        if self.mistake not in ("unscaled", "scaled before"):
            scores = scores * 7**0.5 if self.mistake == "multiplied" else scores / 7**0.5
        gathered = causal(scores) @ values
        joined = gathered if self.mistake == "joined" else gathered.transpose(1, 2)
        return self.head(x + self.output(joined.contiguous().view(x.shape)))

    def split(self, x: Tensor) -> Tensor:
        if self.mistake == "split":
            return x.view(x.shape[0], 3, x.shape[1], 7)
        return x.view(x.shape[0], x.shape[1], 3, 7).transpose(1, 2)


WRONG: dict[str, tuple[Fault, ...]] = {
    "none": (),
    "scaled before": (),
    "split": (MIXED,),
    "joined": (MIXED,),
    "shared": (SHARED,),
    "unscaled": (UNSCALED,),
    "multiplied": (UNSCALED,),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named_and_nothing_else(mistake: str, verdict_of: Callable[..., Verdict]) -> None:
    subject = language_model(lambda: Stranger(mistake))
    assert tuple(fault for fault in ALL if verdict_of(fault, subject).status == "present") == WRONG[mistake]


@pytest.mark.parametrize("mistake", ["unscaled", "multiplied"])
def test_scaling_removes_it(mistake: str, verdict_of: Callable[..., Verdict]) -> None:
    cured = UNSCALED.remedies[0].apply(language_model(lambda: Stranger(mistake)))
    assert verdict_of(UNSCALED, cured).status == "absent"
