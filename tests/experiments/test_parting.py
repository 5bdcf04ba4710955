"""Where curves part: on curves whose parting is known."""

import numpy as np
import pandas as pd
import pytest

from experiments.parting import parting

STEPS = np.arange(1, 101)


def curves(**runs: np.ndarray) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"run": run, "step": STEPS, "tokens": 32 * STEPS, "loss": loss}) for run, loss in runs.items()
    ]
    return pd.concat(parts, ignore_index=True)


def parted(frame: pd.DataFrame, axis: str = "step"):
    names = list(dict.fromkeys(frame["run"]))
    groups = pd.Series([name[0] for name in names], index=names)
    config = pd.DataFrame({"optim.lr": [0.1 if group == "a" else 0.2 for group in groups]}, index=names, dtype=object)
    return parting("b", "a", frame, groups, config, "loss", axis)


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, len(STEPS))


def bend(at: int) -> np.ndarray:
    """No difference up to a step, then one that grows."""
    return np.maximum(0, STEPS - at) * 0.05


def test_curves_part_where_one_of_them_bends() -> None:
    found = parted(curves(a=5 - 0.01 * STEPS + noise(0), b=5 - 0.01 * STEPS + noise(1) + bend(50)))
    assert 45 < found.at < 55
    assert found.sentence == f"b and a part in loss at step {found.at:,.0f}; they differ in optim.lr (0.2 against 0.1)"


def test_several_seeds_count_with_their_spread() -> None:
    runs = {
        f"{group}{seed}": noise(seed + ord(group)) + bend(50) * (group == "b") for group in "ab" for seed in range(5)
    }
    assert 45 < parted(curves(**runs)).at < 55


def test_other_axes_tell_the_step_too() -> None:
    found = parted(curves(a=noise(0), b=noise(1) + bend(50)), axis="tokens")
    assert found.at == pytest.approx(32 * found.step, rel=0.05)
    assert f"at {found.at:,.0f} tokens, step {found.step:,.0f};" in found.sentence


def test_noise_alone_parts_nothing() -> None:
    partings = [parted(curves(a=noise(2 * seed), b=noise(2 * seed + 1))).at for seed in range(20)]
    assert sum(at is not None for at in partings) <= 2
    assert parted(curves(a=noise(0), b=noise(0))).sentence == "b and a do not part in loss up to step 100"


def test_one_odd_point_at_the_end_is_no_parting() -> None:
    odd = np.zeros(len(STEPS))
    odd[-1] = 9.0
    assert parted(curves(a=noise(0), b=noise(1) + odd)).at is None


def test_only_what_both_have_is_compared() -> None:
    whole = curves(a=noise(0), b=noise(1) + bend(50))
    short = whole[(whole["run"] == "a") | (whole["step"] <= 30)]
    assert parted(short).until == 30
    assert parted(short).at is None
    apart = whole[(whole["run"] == "a") & (whole["step"] < 10) | (whole["run"] == "b") & (whole["step"] > 20)]
    assert parted(apart).sentence == "b and a have no loss at the same step"
