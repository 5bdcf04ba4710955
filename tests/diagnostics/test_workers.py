"""Runs side by side give what runs one after the other give."""

from functools import partial

import pytest
import torch

from diagnostics.workers import one_thread, run_all, workers_available


def seeded_sum(seed: int) -> float:
    return float(torch.rand(1009, generator=torch.Generator().manual_seed(seed)).sum())


@pytest.mark.skipif(workers_available() < 2, reason="this machine runs trials one after the other")
def test_two_workers_give_the_results_of_one_in_the_same_order() -> None:
    tasks = [partial(seeded_sum, seed) for seed in range(7)]
    assert run_all(tasks, workers=2) == run_all(tasks, workers=1)


def test_progress_counts_every_task() -> None:
    seen: list[int] = []
    run_all([lambda: 1, lambda: 2, lambda: 3], workers=1, on_done=seen.append)
    assert seen == [1, 2, 3]


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    def fail() -> int:
        raise ValueError("from inside")

    with pytest.raises(ValueError, match="from inside"):
        run_all([fail, fail], workers=2)


def test_the_callers_number_of_threads_comes_back() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
