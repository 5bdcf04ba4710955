"""Heads cut by a view are laid out as a transpose lays them out; everything else stays as it is."""

import pytest
import torch

from diagnostics.interventions.split_heads import SPLIT_HEADS, rightly_laid_out
from tests import subjects

BATCH, TIME, HEADS, WIDTH = 2, 5, 3, 7


def test_rows_cut_by_a_view_become_heads_of_whole_positions() -> None:
    rows = torch.randn(BATCH, TIME, HEADS * WIDTH)
    right = rows.view(BATCH, TIME, HEADS, WIDTH).transpose(1, 2)
    laid = rightly_laid_out(rows, (BATCH, HEADS, TIME, WIDTH))
    assert laid is not None
    assert torch.equal(laid, right)


def test_heads_joined_by_a_view_become_the_rows_they_came_from() -> None:
    rows = torch.randn(BATCH, TIME, HEADS * WIDTH)
    heads = rows.view(BATCH, TIME, HEADS, WIDTH).transpose(1, 2)
    joined = rightly_laid_out(heads, (BATCH, TIME, HEADS * WIDTH))
    assert joined is not None
    assert torch.equal(joined, rows)


@pytest.mark.parametrize("wanted", [(BATCH, TIME, HEADS, WIDTH), (BATCH * TIME, 1, HEADS, WIDTH)])
def test_a_view_that_keeps_positions_apart_is_left_alone(wanted: tuple[int, ...]) -> None:
    assert rightly_laid_out(torch.randn(BATCH, TIME, HEADS * WIDTH), wanted) is None


def test_a_healthy_subject_has_nothing_to_transpose() -> None:
    with pytest.raises(ValueError, match="cuts rows into heads, or joins them, without a transpose"):
        SPLIT_HEADS.apply(subjects.encoder_decoder())
