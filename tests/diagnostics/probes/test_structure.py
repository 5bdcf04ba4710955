"""structure: tying, attention and the shapes of norms."""

import pytest
import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.probes.structure import Structure, grid_affine, structure
from diagnostics.subject import Subject
from tests import subjects


def facts_of(subject: Subject) -> Structure:
    with open_bench(subject, 0) as bench:
        return structure(bench)


@pytest.mark.parametrize(
    ("name", "tied", "attention"),
    [
        ("torch-encoder", False, True),
        ("gru", False, False),
        ("gpt2", True, True),
        ("mlp", False, False),
        ("encoder-decoder", True, True),
    ],
)
def test_tying_and_attention_are_seen(name: str, tied: bool, attention: bool) -> None:
    facts = facts_of(subjects.HEALTHY[name]())
    assert (facts.tied, facts.attention) == (tied, attention)


def test_shapes_are_those_of_the_table_and_the_last_matrix() -> None:
    facts = facts_of(subjects.gru())
    assert facts.embedding_shape == (subjects.VOCAB, 19)
    assert facts.head_shape == (subjects.VOCAB, 31)
    assert facts.clip_norm == 1.0


def test_only_pairs_of_ones_and_zeros_with_two_axes_are_a_grid() -> None:
    model = nn.ModuleDict(
        {"wide": nn.LayerNorm((7, 5)), "narrow": nn.LayerNorm(5), "row": nn.LayerNorm((1, 5)), "map": nn.Linear(5, 7)}
    )
    assert grid_affine(model) == (("wide", 7, 5),)
    nn.init.constant_(model["wide"].get_parameter("weight"), 2.0)
    assert grid_affine(model) == ()


def test_learned_positions_are_no_grid() -> None:
    model = nn.Module()
    model.register_parameter("positions", nn.Parameter(torch.zeros(11, 5)))
    assert grid_affine(model) == ()
