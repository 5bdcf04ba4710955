"""A script is ended when it was seen long enough, and started again with other seeds."""

import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode

from diagnostics.capture.observation import BACKWARDS, PRIME, TRIES, observe, reseeded, start_of
from diagnostics.capture.recording import Recording

Write = Callable[[str], Path]
HEAD = """
import torch, torch.nn as nn
torch.manual_seed(5)
model = nn.Linear(5, 3)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
done = 0

def step():
    global done
    optimizer.zero_grad()
    model(torch.randn(7, 5)).square().mean().backward()
    optimizer.step()
    done += 1
"""
FOREVER = "\nwhile done < 97:\n    step()\n"


class Ended(BaseException):
    """What a test gives instead of ending the process."""


@pytest.fixture(autouse=True)
def same_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script stays ``__main__``; not beyond its test."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Code -> the file train.py that holds it."""

    def written(code: str) -> Path:
        script = tmp_path / "train.py"
        script.write_text(code)
        return script

    return written


def end(given: object) -> None:
    raise Ended


def steps_done() -> object:
    return vars(sys.modules["__main__"])["done"]


def caught_by(clause: str, tries: int = 31) -> str:
    """So many steps are tried in a loop that goes on after whatever this clause catches."""
    return (
        HEAD
        + f"""
for _ in range({tries}):
    try:
        step()
    except {clause}:
        pass
"""
    )


def test_a_script_is_ended_after_so_many_steps(write: Write) -> None:
    recording = observe(write(HEAD + FOREVER), steps=7)
    assert (recording.name, recording.ending, recording.said, recording.steps) == ("train.py", "enough", "", 7)


def test_a_script_that_ends_earlier_ended_by_itself(write: Write) -> None:
    recording = observe(write(HEAD + "\nfor _ in range(3):\n    step()\n"), steps=7)
    assert (recording.ending, recording.steps) == ("ended", 3)


def test_a_script_is_ended_after_so_many_seconds_of_training(write: Write) -> None:
    recording = observe(write(HEAD + FOREVER), seconds=0.0)
    assert recording.ending == "enough"
    assert recording.steps <= 1


def test_what_a_script_does_before_it_trains_is_not_counted(write: Write) -> None:
    recording = observe(write("import time\ntime.sleep(0.3)" + HEAD + "\nstep()"), seconds=0.2)
    assert (recording.ending, recording.steps) == ("ended", 1)
    assert recording.start_seconds >= 0.3


def test_a_script_that_never_steps_is_ended_after_so_many_backward_passes(write: Write) -> None:
    code = HEAD + "\nwhile done < 997:\n    model(torch.randn(7, 5)).square().mean().backward()\n    done += 1\n"
    assert observe(write(code), steps=2).ending == "enough"
    assert steps_done() == 2 * BACKWARDS


def test_an_error_is_told_with_its_place_and_what_was_seen_is_kept(write: Write) -> None:
    code = HEAD + "\nstep()\nraise ValueError('no more data')"
    recording = observe(write(code))
    assert (recording.ending, recording.steps) == ("raised", 1)
    assert recording.said == f"ValueError: no more data (train.py, line {len(code.splitlines())})"


def test_an_interruption_keeps_what_was_seen(write: Write) -> None:
    recording = observe(write(HEAD + "\nstep()\nraise KeyboardInterrupt"))
    assert (recording.ending, recording.steps) == ("interrupted", 1)


def test_a_script_that_catches_exceptions_is_ended_all_the_same(write: Write) -> None:
    recording = observe(write(caught_by("Exception")), steps=3, instead_of_ending=end)
    assert (recording.ending, recording.steps) == ("enough", 3)


@pytest.mark.parametrize("clause", ["BaseException", ""])
def test_a_script_that_catches_everything_is_left_in_its_middle_with_torch_as_it_was(clause: str, write: Write) -> None:
    entry, told = torch.nn.Module.__call__, list[tuple[str, int]]()

    def leave(recording: Recording) -> None:
        assert torch.nn.Module.__call__ is entry
        told.append((recording.ending, recording.steps))
        raise Ended

    observe(write(caught_by(clause)), steps=3, instead_of_ending=leave)
    assert told == [("enough", 3)]
    assert _get_current_function_mode() is None


def test_a_script_that_catches_everything_goes_on_to_its_end_where_nothing_is_given_instead(write: Write) -> None:
    assert observe(write(caught_by("BaseException", tries=31)), steps=3).ending == "ended"
    assert steps_done() == 31 - (TRIES + 1)
    assert _get_current_function_mode() is None


def numbers(script: Path, seed: int) -> dict[str, Tensor]:
    return start_of(script, (), seed)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seeding", ["torch.manual_seed(5)", "torch.random.manual_seed(5)", ""])
def test_another_seed_starts_from_other_numbers_and_the_same_seed_from_the_same(seeding: str, write: Write) -> None:
    script = write(HEAD.replace("torch.manual_seed(5)", seeding) + FOREVER)
    zero, one, again = numbers(script, 0), numbers(script, 1), numbers(script, 1)
    assert sorted(zero) == ["bias", "weight"]
    assert same(one, again)
    assert not torch.equal(zero["weight"], one["weight"])


@pytest.mark.parametrize(
    "draw", ["__import__('random').seed(5), __import__('random').random()", "np.random.seed(5), np.random.rand()"]
)
def test_numbers_that_python_and_numpy_draw_are_other_ones_too(draw: str, write: Write) -> None:
    fill = f"\nimport numpy as np\nwith torch.no_grad():\n    model.weight.fill_(({draw})[1])\n"
    script = write(HEAD + fill + FOREVER)
    zero, one = numbers(script, 0), numbers(script, 1)
    assert not torch.equal(zero["weight"], one["weight"])
    assert same(one, numbers(script, 1))


def test_the_first_seed_is_the_script_s_own_start(write: Write) -> None:
    torch.manual_seed(5)
    own = torch.nn.Linear(5, 3)
    assert same(numbers(write(HEAD + FOREVER), 0), dict(own.state_dict()))


def test_a_start_ends_before_the_first_update(write: Write) -> None:
    numbers(write(HEAD + FOREVER), 1)
    assert steps_done() == 0


def test_a_start_that_the_script_catches_is_given_in_the_middle_of_it(write: Write) -> None:
    told: list[dict[str, Tensor]] = []

    def leave(found: dict[str, Tensor]) -> None:
        told.append(found)
        raise Ended

    script = write(caught_by("BaseException", tries=TRIES + 1))
    found = start_of(script, (), 1, instead_of_ending=leave)
    assert len(told) == 1
    assert same(told[0], found)
    assert steps_done() == 0


def test_a_script_that_never_comes_to_a_step_is_told_with_what_it_raised(write: Write) -> None:
    script = write(HEAD + "\nraise ValueError('no data')")
    line = len(script.read_text().splitlines())
    message = (
        rf"train\.py did not come to its first step with another seed \(ValueError: no data \(train\.py, line {line}"
    )
    with pytest.raises(ValueError, match=message):
        numbers(script, 1)


def test_seeds_inside_are_shifted_and_the_functions_are_the_same_afterwards() -> None:
    before = torch.manual_seed, torch.random.manual_seed, random.seed, np.random.seed
    with reseeded(3):
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        drawn = torch.rand(2), random.random(), np.random.rand()
    assert (torch.manual_seed, torch.random.manual_seed, random.seed, np.random.seed) == before
    seed = 5 + 3 * PRIME
    assert torch.equal(drawn[0], torch.rand(2, generator=torch.Generator().manual_seed(seed)))
    assert drawn[1:] == (random.Random(seed).random(), np.random.RandomState(seed).rand())
