"""Missing and detached residuals, missing norms: in models written by hand and in torch's own, and not elsewhere."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict
from diagnostics.faults import norm_missing, residual_detached, residual_missing
from diagnostics.probes.residual_paths import ResidualPaths, residual_paths
from diagnostics.subject import Subject
from tests import subjects

Judge = Callable[..., Verdict]
FAULTS = [module.FAULT for module in (norm_missing, residual_detached, residual_missing)]


class Block(nn.Module):
    """Attention by hand and a feed-forward part, joined as ``style`` says."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.qkv, self.out = nn.Linear(14, 42), nn.Linear(14, 14)
        self.feed = nn.Sequential(nn.Linear(14, 23), nn.GELU(), nn.Linear(23, 14))
        self.norms = nn.ModuleList([nn.LayerNorm(14), nn.LayerNorm(14)])

    def attend(self, x: Float[Tensor, "batch time 14"]) -> Float[Tensor, "batch time 14"]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (q @ k.transpose(-2, -1) / 14**0.5).masked_fill(hidden, float("-inf"))
        return self.out(F.softmax(scores, dim=-1) @ v)

    def forward(self, x: Float[Tensor, "batch time 14"]) -> Float[Tensor, "batch time 14"]:
        first, second = self.norms
        if self.style == "pre":
            x = x + self.attend(first(x))
            return x + self.feed(second(x))
        if self.style == "post":
            x = first(x + self.attend(x))
            return second(x + self.feed(x))
        if self.style == "by hand":
            x = x + self.attend((x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt())
            return x + self.feed(x)
        if self.style == "no norm":
            x = x + self.attend(x)
            return x + self.feed(x)
        if self.style == "detached":
            x = x.detach() + self.attend(first(x))
            return x.data + self.feed(second(x))
        if self.style == "feed-forward alone":
            x = first(x + self.attend(x))
            return second(self.feed(x))
        return second(self.feed(first(self.attend(x))))


class Stack(nn.Module):
    """Three such blocks as a language model; its table may be frozen."""

    def __init__(self, style: str, frozen: bool = False) -> None:
        super().__init__()
        self.table, self.positions = nn.Embedding(subjects.VOCAB, 14), nn.Embedding(subjects.CONTEXT, 14)
        self.table.requires_grad_(not frozen)
        self.positions.requires_grad_(not frozen)
        self.blocks = nn.ModuleList([Block(style) for _ in range(3)])
        self.head = nn.Linear(14, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        x = self.table(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def stack(style: str, frozen: bool = False) -> Subject:
    return subjects.language_model("stack", lambda: Stack(style, frozen), lr=1e-3)


def measured(subject: Subject) -> ResidualPaths:
    with open_bench(subject, 0) as bench:
        return residual_paths(bench)


@pytest.mark.parametrize(
    ("style", "present"),
    [
        ("pre", None),
        ("post", None),
        ("by hand", None),
        ("no norm", "norm-missing"),
        ("detached", "residual-detached"),
        ("none", "residual-missing"),
        ("feed-forward alone", "residual-missing"),
    ],
)
def test_each_way_of_writing_a_block_is_told_apart(style: str, present: str | None, verdict_of: Judge) -> None:
    verdicts = {fault.id: verdict_of(fault, stack(style)).status for fault in FAULTS}
    expected = {fault.id: "present" if fault.id == present else "absent" for fault in FAULTS}
    assert verdicts == expected


def test_a_frozen_table_does_not_look_like_a_missing_residual(verdict_of: Judge) -> None:
    assert verdict_of(residual_missing.FAULT, stack("pre", frozen=True)).status == "absent"


@pytest.mark.parametrize("style", ["none", "detached", "no norm"])
def test_the_remedy_takes_the_fault_away(style: str, verdict_of: Judge) -> None:
    subject = stack(style)
    fault = next(fault for fault in FAULTS if verdict_of(fault, subject).status == "present")
    assert verdict_of(fault, fault.remedies[0].apply(subject)).status == "absent"


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_healthy_subject_raises_no_alarm(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert verdict_of(fault, subjects.HEALTHY[name]()).status in ("absent", "not tested")


@pytest.mark.parametrize("name", subjects.HEALTHY)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_what_is_planted_is_found(fault: Fault, name: str, verdict_of: Judge) -> None:
    assert fault.plant is not None
    try:
        planted = fault.plant(subjects.HEALTHY[name]())
    except ValueError as reason:
        pytest.skip(str(reason))
    assert verdict_of(fault, planted).status == "present"


def test_pre_norm_has_one_norm_on_its_way_and_post_norm_two_per_layer() -> None:
    assert measured(stack("pre")).norms_on_path == 1
    assert measured(stack("post")).norms_on_path == 4  # two layers before the last attention


class Bahdanau(nn.Module):
    """A recurrent decoder that attends over its own past at every step: no stack of attentions."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell = nn.Embedding(subjects.VOCAB, 7), nn.GRUCell(14, 7)
        self.head = nn.Linear(7, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        x, state = self.table(tokens), torch.zeros(len(tokens), 7)
        past = [state]
        for step in x.unbind(1):
            memory = torch.stack(past, 1)
            weights = torch.softmax(memory @ state[:, :, None], dim=1)
            state = self.cell(torch.cat((step, (weights * memory).sum(1)), -1), state)
            past.append(state)
        return self.head(torch.stack(past[1:], 1))


def test_attention_inside_a_recurrence_is_left_alone(verdict_of: Judge) -> None:
    subject = subjects.language_model("bahdanau", Bahdanau, lr=1e-3)
    assert {verdict_of(fault, subject).status for fault in FAULTS} == {"not tested"}
