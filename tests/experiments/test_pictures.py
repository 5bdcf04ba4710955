"""The pictures of a diagnosis: what they draw, that they can be read, and that the same data gives the same bytes."""

import functools
import itertools
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text

from diagnostics.levels import ReferenceLevel
from diagnostics.probe import Reading
from diagnostics.probes.gradient_norms import GradientNorms
from diagnostics.probes.update_ratios import UpdateRatio, UpdateRatios
from diagnostics.trial import Trial
from experiments.pictures import (
    BLUE,
    INK,
    ORANGE,
    STRONG,
    VERMILION,
    PathRow,
    Picture,
    apart,
    band,
    before_after,
    by_module,
    fresh_curves,
    influence,
    loss_curves,
    merged,
    milestone_rows,
    one_batch_curves,
    path_rows,
    pictures,
    png,
    repair_path,
    shade,
    standing_loss,
    svg,
    switch_rows,
    switch_table,
)
from experiments.pictures.drawing import SMALL
from tests import diagnoses

EXACT = 1e-9  # float arithmetic


@functools.cache
def stuck_pictures() -> tuple[Picture, ...]:
    return pictures(diagnoses.stuck())


def texts(figure: Figure) -> list[str]:
    """Every word in a figure."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_svg_keeps_text_as_text_and_takes_its_ink_from_the_page() -> None:
    figure = standing_loss(diagnoses.stuck().history, diagnoses.STANDING, diagnoses.levels())
    assert figure is not None
    element = svg(figure, "one")
    assert element.startswith("<svg")
    assert element.endswith("</svg>")
    assert ">double-softmax ceiling</text>" in element
    assert INK not in element
    assert "currentColor" in element
    assert "<metadata" not in element


def test_the_same_data_gives_the_same_bytes() -> None:
    first, second = (before_after(diagnoses.stuck().causes[0].trials[0]) for _ in range(2))
    assert svg(first) == svg(second)
    assert png(first) == png(second)


def test_ids_of_two_pictures_on_one_page_never_meet() -> None:
    seen = [set(re.findall(r' id="([^"]+)"', svg(each.figure, each.name))) for each in stuck_pictures()]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_png_is_a_png() -> None:
    figure = loss_curves({"a": [(3.0, 2.0)]})
    assert figure is not None
    assert png(figure).startswith(b"\x89PNG\r\n")


def test_every_picture_of_a_stuck_run_has_words_for_those_who_do_not_see_it() -> None:
    drawn = stuck_pictures()
    assert [each.name for each in drawn] == [
        "standing-loss", "one-batch", "switch-table", "repair-path", "milestones", "fresh-batches"
    ]  # fmt: skip
    assert all(each.title and each.caption and re.search(r"\d", each.alt) for each in drawn)


def test_pictures_without_data_are_left_out() -> None:
    assert pictures(diagnoses.bare()) == ()


@pytest.mark.parametrize(("standing", "panels"), [(8.9952, 2), (8.9925, 2), (7.2105, 2), (8.5, 1), (math.nan, 1)])
def test_a_loss_within_a_thousandth_of_a_level_is_magnified(standing: float, panels: int) -> None:
    figure = standing_loss((9.0, 8.9, standing), standing, diagnoses.levels())
    assert figure is not None
    assert len(figure.axes) == panels


def test_the_magnified_panel_holds_ln_v_and_the_ceiling_and_little_else() -> None:
    figure = standing_loss((), diagnoses.STANDING, diagnoses.levels())
    assert figure is not None
    low, high = figure.axes[1].get_ylim()
    inside = [level.name for level in diagnoses.levels() if low < level.nats < high]
    assert inside == ["uniform", "double-softmax ceiling"]
    assert high - low < 1e-3


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=7).map(sorted))
def test_labels_keep_their_order_and_their_distance(places: list[float]) -> None:
    moved = apart(places, 0.125)
    assert all(after - before >= 0.125 - EXACT for before, after in itertools.pairwise(moved))
    assert moved[-1] <= 0.96


def test_labels_that_are_far_apart_stay_where_they_are() -> None:
    assert apart([0.1, 0.5, 0.9], 0.25) == [0.1, 0.5, 0.9]


def test_the_table_of_single_repairs_reads_the_runs() -> None:
    rows = {row.label: row.cells for row in switch_rows(diagnoses.stuck())}
    stays, falls = (8.75, 8.875, 9.0), (4.375, 4.5, 4.625)
    assert next(iter(rows)) == "nothing"
    assert len(rows) == 6
    assert rows["nothing"][:2] == (stays, stays)
    assert rows["nothing"][3:5] == (falls, falls)
    assert rows[diagnoses.SOFTMAX] == (
        falls, falls, tuple(loss + 1 for loss in falls), stays, stays, tuple(loss + 1 for loss in stays)
    )  # fmt: skip


def test_the_rows_stand_in_the_order_of_repair_with_the_deviations_last() -> None:
    labels = [row.label for row in switch_rows(diagnoses.stuck())[1:]]
    ranks = [diagnoses.FAULTS[label].repair_rank for label in labels[:-1]]
    assert ranks == sorted(ranks)
    assert labels[-1] == f"{diagnoses.DEVIATION} (deviation)"


def test_honest_losses_are_compared_in_bits_per_byte_where_every_run_has_them() -> None:
    runs = tuple(
        replace(run, outcome=replace(run.outcome, bits_per_byte=2.5)) if run.outcome.regime == "fresh batches" else run
        for run in diagnoses.stuck().runs
    )
    assert switch_rows(replace(diagnoses.stuck(), runs=runs))[0].cells[2] == (2.5, 2.5, 2.5)


def test_the_table_prints_mean_and_spread_and_says_which_runs_failed_or_were_not_made() -> None:
    row, other = switch_rows(diagnoses.stuck())[:2]
    figure = switch_table([row, replace(other, cells=((math.nan,) * 3, (), *other.cells[2:]))])
    assert figure is not None
    assert {"8.88", "± 0.1", "failed", "–"} <= set(texts(figure))  # noqa: RUF001


def test_a_change_is_blue_where_the_loss_falls_orange_where_it_rises_and_blank_within_noise() -> None:
    base = (8.0, 8.5, 9.0)
    assert shade((2.0, 2.125, 2.25), base) == (BLUE, pytest.approx(0.6))
    assert shade(tuple(STRONG * each for each in base), base)[0] == ORANGE
    assert shade((8.25, 8.5, 9.0), base)[1] == 0
    assert shade((math.nan, 8.5, 9.0), base)[1] == 0
    assert shade((), base)[1] == 0


def test_the_band_runs_from_the_lowest_to_the_highest_seed_and_a_learned_curve_keeps_its_last_loss() -> None:
    assert band([(5.0, 3.0, 2.0), (7.0, 1.0)]) == ([5.0, 1.0, 1.0], [6.0, 2.0, 1.5], [7.0, 3.0, 2.0])


def test_one_batch_curves_show_each_cause_of_the_fit_alone_and_the_repairs_together() -> None:
    curves = one_batch_curves(diagnoses.stuck())
    assert list(curves)[:3] == ["as it stands", f"without {diagnoses.SOFTMAX}", f"without {diagnoses.PIN}"]
    assert [len(curve) for curve in curves["as it stands"]] == [5, 6, 7]


def test_curves_of_seeds_that_never_ran_are_left_out() -> None:
    assert loss_curves({"a": [()], "b": []}) is None
    figure = loss_curves({"a": [(), (2.0, 1.0)]})
    assert figure is not None
    assert [line.get_label() for line in figure.axes[0].lines] == ["a: 1.00"]


def test_more_curves_than_colours_are_all_drawn() -> None:
    figure = loss_curves({f"run {index}": [(3.0, 2.0)] for index in range(11)})
    assert figure is not None
    assert len(figure.axes[0].lines) == 11


def test_curves_with_losses_below_zero_or_not_a_number_are_drawn_on_a_plain_scale() -> None:
    for curve in ((1.0, -1.0), (1.0, math.nan)):
        figure = loss_curves({"a": [curve]})
        assert figure is not None
        assert figure.axes[0].get_yscale() == "linear"
        assert png(figure)


def test_a_trial_is_drawn_as_one_line_per_seed() -> None:
    trial = Trial(
        question="tied against untied", quantity="loss (nats)", seeds=(2, 3, 5), before=(3.0, 3.5, 3.25),
        after=(2.0, 2.5, 2.25), reference=math.nan,
    )  # fmt: skip
    alone = before_after(trial)
    assert [tuple(line.get_ydata()) for line in alone.axes[0].lines] == [(3.0, 2.0), (3.5, 2.5), (3.25, 2.25)]
    assert len(before_after(trial, {"tied": [(3.0, 2.0)], "untied": [(3.0, 2.5)]}).axes) == 2


def test_training_curves_show_the_run_as_it_stands_beside_the_repaired_one() -> None:
    assert list(fresh_curves(diagnoses.stuck())) == ["as it stands", "with the proposed repairs"]
    assert fresh_curves(diagnoses.healthy()) == {}


def test_losses_within_a_decade_are_drawn_on_a_plain_scale_because_a_logarithm_has_no_tick_there() -> None:
    for last, scale in ((2.0, "linear"), (0.02, "log")):
        figure = loss_curves({"a": [(8.0, last)]})
        assert figure is not None
        assert figure.axes[0].get_yscale() == scale


def test_the_way_of_repairs_has_the_seeds_of_its_runs_and_the_means_where_there_are_none() -> None:
    stuck = diagnoses.stuck()
    first, second, third, *_ = path_rows(stuck)
    assert (first.label, first.one_batch, first.honest) == ("nothing repaired", (8.75, 8.875, 9.0), (9.75, 9.875, 10.0))
    assert (second.label, second.one_batch) == (diagnoses.SOFTMAX, (4.375, 4.5, 4.625))
    assert (third.label, third.one_batch, third.honest) == (f"+ {diagnoses.LEAK}", (0.04,), (7.0,))
    assert third.reveals == (diagnoses.DEVIATION,)


def test_the_way_of_repairs_draws_a_row_for_each_step_and_says_what_was_not_run() -> None:
    rows = path_rows(diagnoses.stuck())
    figure = repair_path([*rows[:-1], replace(rows[-1], honest=())], "nats per token")
    assert figure is not None
    told = texts(figure)
    assert {"nothing repaired", diagnoses.SOFTMAX, f"+ {diagnoses.LEAK}", "not run", "8.88"} <= set(told)
    assert f"reveals {diagnoses.DEVIATION}" in told
    assert repair_path(path_rows(diagnoses.healthy()), "nats per token") is None


def test_a_repair_that_makes_a_loss_worse_is_orange_on_the_way() -> None:
    rows = [PathRow(label=str(loss), one_batch=(loss,), honest=(loss,)) for loss in (5.0, 7.0, 3.0)]
    figure = repair_path(rows, "nats per token")
    assert figure is not None
    way = [line.get_color() for line in figure.axes[0].lines if len(set(line.get_ydata())) == 2]
    assert way == [ORANGE, BLUE, ORANGE, BLUE]


def test_losses_at_or_below_zero_have_a_place_on_the_way_too() -> None:
    rows = [PathRow(label=str(loss), one_batch=(loss,), honest=()) for loss in (2.0, 0.0, -1.0)]
    figure = repair_path(rows, "nats per token")
    assert figure is not None
    assert png(figure)


@pytest.mark.parametrize("picture", stuck_pictures(), ids=lambda picture: picture.name)
def test_no_text_in_a_picture_is_too_small_to_read_on_a_phone(picture: Picture) -> None:
    sizes = [text.get_fontsize() for text in picture.figure.findobj(Text) if text.get_text()]
    assert min(sizes) >= SMALL


def test_milestones_without_a_usable_value_are_left_out() -> None:
    missed = replace(diagnoses.milestone(0.75), values=(math.nan, math.inf))
    assert milestone_rows([missed]) is None
    figure = milestone_rows([missed, diagnoses.milestone(0.75)])
    assert figure is not None
    assert len(figure.axes) == 1


def test_an_edit_that_moves_a_prediction_which_must_not_know_it_stands_out() -> None:
    sees = ((True, True, True), (True, True, True), (False, False, True))
    figure = influence(sees, edited=(0, 1, 2), shift=1)
    assert figure is not None
    colours = [patch.get_facecolor()[:3] for patch in figure.axes[0].patches]
    leaking = tuple(int(VERMILION[place : place + 2], 16) / 255 for place in (1, 3, 5))
    assert [index for index, colour in enumerate(colours) if colour == pytest.approx(leaking)] == [3]


def test_a_module_without_gradient_is_marked_because_a_logarithm_cannot_draw_it() -> None:
    figure = by_module([("embedding", 0.5), ("head", 0.0), ("norm", math.nan)], unit="norm")
    assert figure is not None
    assert texts(figure) == ["exactly 0", "nan"]
    assert by_module([], unit="norm") is None


def test_many_modules_are_merged_into_the_blocks_that_hold_them() -> None:
    values = [(f"encoder.{layer}.{part}", 2.0) for layer in range(3) for part in ("key", "query", "value")]
    assert merged([*values, ("", 7.0)], sum, most=5) == [
        ("encoder.0", 6.0), ("encoder.1", 6.0), ("encoder.2", 6.0), ("model", 7.0)
    ]  # fmt: skip
    assert len(merged(values, sum, most=9)) == 9
    assert merged(values, sum, most=2) == [("encoder", 18.0)]
    assert merged([], sum) == []


def test_gradients_updates_and_the_stream_are_drawn_where_they_were_measured() -> None:
    norms = GradientNorms(
        first=(), modules=(("embedding", 7), ("head", 5)), over_steps=((3.0, 0.0), (1.0, 1.0)), missing=(), zero=(),
        nonfinite=(), first_nonfinite=None, losses=(2.0,),
    )  # fmt: skip
    ratio = UpdateRatio(name="head.weight", first=0.5, median=0.25)
    ratios = UpdateRatios(matrices=(ratio,), first=0.5, median=0.25, vectors=())
    measured = {"gradient-norms": norms, "update-ratios": ratios, "stream-scale": diagnoses.Measured()}
    readings = tuple(Reading(probe=probe, seed=3, seconds=0.5, measurement=each) for probe, each in measured.items())
    drawn = pictures(replace(diagnoses.bare(), readings=readings))
    assert [each.name for each in drawn] == list(measured)
    assert all("seed 3" in each.caption for each in drawn)
    assert [each.alt for each in drawn[:2]] == [
        "Gradient norms by depth: 2 modules from 0 to 3.00.", "Update-to-weight ratios: 1 modules from 0.25 to 0.25."
    ]  # fmt: skip


def test_words_of_the_subject_cannot_become_markup() -> None:
    level = ReferenceLevel(name="<script>", nats=1.0, means="")
    figure = standing_loss((2.0, 1.5), 1.5, [level])
    assert figure is not None
    assert "<script>" not in svg(figure)
