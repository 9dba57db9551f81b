"""Real processes are killed, whatever they are doing; the command is repeated until it ends."""

import random
import signal
from pathlib import Path

import pytest
from runs import assert_same_run, launch

from minidalle.checkpoint import found, read

RUNS = 2  # each killed until it ends


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nobody killed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    launch(out, "clip")
    return out


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path, whole):
    """SIGKILL when half of the second checkpoint is on the disk: the first is good, the rest is removed,
    and the same command ends as if nothing had been."""
    out = tmp_path / "run"
    assert launch(out, "clip", "die=2", check=False).returncode == -signal.SIGKILL
    names = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert len(names) == 2 and names[0].startswith(".dvae-00000006.safetensors.")
    assert read(found(out / "checkpoints", "dVAE")[-1]).step == 3
    launch(out, "clip")
    assert_same_run(out, whole)
    assert not list(out.rglob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(RUNS))
def test_killed_at_random_a_run_ends_bit_for_bit_the_same(seed, tmp_path, whole, tell):
    """SIGKILL at random moments until the run ends: every file is as without kills, but for the clock."""
    out, chance, kills = tmp_path / "run", random.Random(seed), 0
    while True:
        answer = launch(out, "clip", f"kill={chance.randrange(10**6)}", check=False)
        if answer.returncode == 0 or (out / "config.json").exists():
            break
        assert answer.returncode == -signal.SIGKILL, answer.stderr
        kills += 1
        assert kills < 60, "it does not get on"
    tell(f"seed {seed}: {kills} kills, then the same bits")
    assert kills >= 2
    assert_same_run(out, whole)
