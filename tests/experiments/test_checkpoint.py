import random
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint


def trained(steps: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def test_weights_moments_progress_and_chance_come_back(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    save_checkpoint(tmp_path / "c.pt", model=model, optimizer=optimizer, progress={"step": 3, "best": float("inf")})
    expected = (torch.rand(7), random.random())
    other, other_optimizer = trained(1)
    progress = load_checkpoint(tmp_path / "c.pt", model=other, optimizer=other_optimizer)
    assert progress == {"step": 3, "best": float("inf")}
    assert torch.equal(other.weight, model.weight)  # type: ignore[arg-type]
    state, other_state = (each.state_dict()["state"][0] for each in (optimizer, other_optimizer))
    assert torch.equal(state["exp_avg_sq"], other_state["exp_avg_sq"])
    assert torch.equal(expected[0], torch.rand(7))
    assert expected[1] == random.random()


def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = trained(1)
    path = tmp_path / "c.pt"
    save_checkpoint(path, model=model, optimizer=optimizer, progress={"step": 1})

    def full(content: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match=r"c\.pt cannot be written: .*No space left on device"):
        save_checkpoint(path, model=model, optimizer=optimizer, progress={"step": 2})
    assert read_checkpoint(path)["progress"] == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_or_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; the run ended before its first checkpoint"):
        read_checkpoint(tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"c\.pt is damaged .*; start the run anew"):
        read_checkpoint(tmp_path / "c.pt")
