"""`unplateau gradients`: norms, update sizes and zeros by module."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from diagnostics.subject import Subject
from experiments.commands.gradients import sentence
from experiments.gradients import gradients
from experiments.subject import subject_of


class Half(nn.Module):
    """y = 2 a + 3 b with b cut off from the loss; `c` is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(1, 1, bias=False)
        self.b = nn.Linear(1, 1, bias=False)
        self.c = nn.Linear(2, 1, bias=False)
        for each, value in ((self.a, 2.0), (self.b, 3.0), (self.c, 1.0)):
            nn.init.constant_(each.weight, value)


def by_hand() -> Subject:
    """loss = 5 a + 0 b; plain gradient descent with rate 0.1."""
    return Subject(
        model=Half(),
        build=lambda seed: Half(),
        loss=lambda model, batch: 5 * model.a.weight.sum() + 0 * model.b.weight.sum(),
        batches=lambda seed: iter([None] * 3),
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    )


def test_a_case_by_hand() -> None:
    """a: gradient 5, update 0.5 of 2, then of 1.5; b: gradient exactly 0; c: none at all."""
    a, b, c = gradients(by_hand(), seed=0, steps=2).modules
    assert (a.module, a.parameters, a.norms, a.zeros) == ("a", 1, (5.0, 5.0), 0)
    assert a.update_ratios == pytest.approx((0.25, 1 / 3))
    assert (b.norms, b.update_ratios, b.zeros, b.never_moves) == ((0.0, 0.0), (0.0, 0.0), 1, True)
    assert (c.norms, c.zeros, c.always_zero, c.parameters) == ((0.0, 0.0), 2, 2, 2)


def test_modules_without_gradient_are_named() -> None:
    assert sentence(gradients(by_hand(), seed=0, steps=2)) == (
        "no gradient at any step in b, c: nothing is learned there"
    )


def test_a_gradient_that_is_not_finite_is_named() -> None:
    wild = replace(by_hand(), loss=lambda model, batch: model.a.weight.sum() * math.inf)
    assert sentence(gradients(wild, seed=0, steps=2)) == "the gradient of a is not finite: the training diverges"


def test_all_parameters_are_counted_once(tiny) -> None:
    subject = subject_of(tiny)
    found = gradients(subject, seed=3, steps=2)
    assert sum(each.parameters for each in found.modules) == sum(each.numel() for each in subject.model.parameters())
    assert all(math.isfinite(total) and total > 0 for total in found.total_norms)


def test_the_embedding_of_tokens_that_do_not_occur_has_no_gradient(tiny_stuck) -> None:
    embedding = gradients(subject_of(tiny_stuck), seed=3, steps=1).modules[0]
    rows = embedding.zeros // tiny_stuck.model.d_model
    assert 0 < rows < tiny_stuck.tokenizer.vocab_size


def test_the_command_shows_a_row_per_module_and_keeps_tables_and_pictures(run, small, tmp_path) -> None:
    ended = run("gradients", *small, "--steps", 2, "--out", tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "gradients.json").read_text())
    rows = list(csv.reader((tmp_path / "out" / "tables" / "gradients.csv").read_text().splitlines()))
    assert ended.code == 0
    assert [row[0] for row in rows[1:]] == [each["module"] for each in kept["modules"]]
    assert len(ended.out.partition("\n\n")[0].splitlines()) == 2 + len(kept["modules"])
    assert max(map(len, ended.out.partition("\n\n")[0].splitlines())) <= 80
    for name in ("gradient-norms", "update-ratios"):
        assert (tmp_path / "out" / "pictures" / f"{name}.png").exists()
        assert (tmp_path / "out" / "pictures" / f"{name}.svg").exists()
    assert ended.out.splitlines()[-1] == "next        unplateau diagnose --recipe small"
