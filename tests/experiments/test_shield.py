"""A script under observation writes nothing to its user's Weights & Biases account, whatever it asks for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.shield import shielded
from tests.experiments.loopback import serving

pytestmark = pytest.mark.timeout(120)

SCRIPT = """
import os
from experiments.shield import keep_wandb_offline
keep_wandb_offline()
import wandb
{before}
run = wandb.init(project="mine", {arguments})
run.log({{"loss": 1.5}})
run.finish()
"""


def test_the_environment_asks_for_offline_and_a_folder_of_ours(tmp_path: Path) -> None:
    found = shielded({"WANDB_MODE": "online", "WANDB_DIR": "/theirs", "HOME": "/home"}, tmp_path)
    assert (found["WANDB_MODE"], found["WANDB_DIR"], found["HOME"]) == ("offline", str(tmp_path), "/home")


@pytest.mark.parametrize("mode", ["disabled", "dryrun", "offline"])
def test_a_quiet_mode_stays(mode: str, tmp_path: Path) -> None:
    assert shielded({"WANDB_MODE": mode}, tmp_path)["WANDB_MODE"] == mode


def test_the_environment_that_was_given_stays_as_it_is(tmp_path: Path) -> None:
    given = {"WANDB_MODE": "online"}
    shielded(given, tmp_path)
    assert given == {"WANDB_MODE": "online"}


@pytest.mark.parametrize(
    ("before", "arguments"),
    [
        ("", "mode='online', dir='.'"),
        ("os.environ['WANDB_MODE'] = 'online'", ""),
        ("del os.environ['WANDB_MODE'], os.environ['WANDB_DIR']; wandb.login()", ""),
        ("wandb.login(key='1' * 40, relogin=True)", "settings=wandb.Settings(mode='online')"),
        ("", "mode='disabled'"),
    ],
    ids=["argument", "environment", "no-environment", "login", "disabled"],
)
def test_no_request_leaves_with_a_key_and_online_asked_for(
    before: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with serving() as server:
        monkeypatch.setattr(server, "verify_request", lambda *asked: requests.append(asked) or True)
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(before=before, arguments=arguments)],
            cwd=tmp_path / "theirs",
            env=shielded(os.environ, tmp_path / "ours"),
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.returncode == 0, done.stderr
    assert requests == []
    assert list((tmp_path / "theirs").iterdir()) == []
    kept = list((tmp_path / "ours").glob("wandb/offline-run-*"))
    assert len(kept) == ("disabled" not in arguments)
