"""Several processes (gloo, on the CPU): the losses of one, data of their own, resumption (slow)."""

import re
from pathlib import Path

import pytest
from runs import launch, lines

from minidalle.checkpoint import found, read

pytestmark = pytest.mark.slow
EXACT = 1e-5  # of float32 sums in another order; measured: 4e-7
MUON = 1e-3  # Muon orthogonalises in bfloat16, which makes more of the same differences; measured: 8e-5
PARTS = {"train_marginal_kl"}  # of the examples that are computed at once, and in no loss here


def worst(one: Path, other: Path) -> float:
    """The largest relative difference between any two losses of two logs."""
    pairs = list(zip(lines(one), lines(other), strict=True))
    found = [0.0]
    for a, b in pairs:
        for name in a.keys() - PARTS:
            if name.startswith("train_") or name.endswith("_nats"):
                found.append(abs(a[name] - b[name]) / abs(a[name]))
    assert len(found) > 20
    return max(found)


def tell(capsys, text: str) -> None:
    """Print figures also when the test passes: they are what the test is about."""
    with capsys.disabled():
        print(f"\n  {text}")


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Path]:
    """Runs of one process: with the recipe's Muon, and with the paper's AdamW."""
    folder = tmp_path_factory.mktemp("alone")
    for name, words in (("muon", ["f32"]), ("adamw", ["f32", "adamw"])):
        launch(folder / name, *words)
    return {name: folder / name for name in ("muon", "adamw")}


@pytest.mark.parametrize(
    ("name", "how", "words", "bound"),
    [
        ("adamw", "--multi_gpu", ["adamw"], EXACT),
        ("adamw", "--multi_gpu", ["adamw", "parts"], EXACT),
        ("muon", "--multi_gpu", [], MUON),
        ("adamw", "--use_fsdp --fsdp_version 2", ["adamw"], EXACT),
        ("muon", "--use_fsdp --fsdp_version 2", [], MUON),
    ],
)
def test_two_processes_have_the_losses_of_one(name, how, words, bound, alone, tmp_path, capsys):
    """The same global batch, by DDP and by FSDP, in one part a process or in two: the same losses."""
    launch(tmp_path / "two", "f32", *words, processes=2, how=how)
    difference = worst(alone[name], tmp_path / "two")
    tell(capsys, f"two processes, {how} {' '.join(words)}: losses differ by {difference:.1e}")
    assert difference < bound


def test_parts_of_a_batch_have_the_losses_of_the_whole(alone, tmp_path):
    """Gradient accumulation in one process, text targets of unequal number in the parts."""
    launch(tmp_path / "parts", "f32", "adamw", "parts")
    assert worst(alone["adamw"], tmp_path / "parts") < EXACT


def test_processes_see_data_of_their_own(tmp_path):
    """In stage 1 no picture is drawn by both, and together they draw what one process would."""
    launch(tmp_path / "two", "watch", processes=2)
    launch(tmp_path / "one", "watch")
    seen = [
        [int(text) for text in (tmp_path / name).read_text().splitlines()]
        for name in ("two.seen0", "two.seen1", "one.seen0")
    ]
    # The fingerprint draws the first pictures everywhere, and the first process encodes 40 of them.
    first, second, alone = ([i for i in each if i >= 40] for each in seen)
    assert len(first) > 20 and len(second) > 20
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(alone)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("--multi_gpu", []),
        ("--multi_gpu", ["rank=2"]),
        ("--use_fsdp --fsdp_version 2", []),
    ],
)
@pytest.mark.parametrize("die", [2, 6])
def test_two_processes_go_on_after_a_kill(die, how, words, tmp_path):
    """The first process is killed while it writes a checkpoint; rerun, the log is as if it had not been.

    The processes' sums are in a fixed order, so equality is exact, PowerSGD's errors included.
    """
    launch(tmp_path / "whole", *words, processes=2, how=how)
    killed = launch(tmp_path / "killed", f"die={die}", *words, processes=2, how=how, check=False)
    assert killed.returncode != 0 and not (tmp_path / "killed" / "config.json").exists()
    again = launch(tmp_path / "killed", *words, processes=2, how=how)
    assert "going on from step" in again.stdout + again.stderr
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")
    for name in ("dvae.safetensors", "dalle.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_of_two_processes_goes_on_in_one(alone, tmp_path):
    """Checkpoints are whole: another number of processes reads them."""
    out = tmp_path / "two"
    launch(
        out, "f32", "adamw", "die=6", processes=2, how="--use_fsdp --fsdp_version 2", check=False
    )
    launch(out, "f32", "adamw")
    assert worst(alone["adamw"], out) < EXACT


def test_powersgd_sends_less(alone, tmp_path, capsys):
    """The share of numbers that are not sent is logged; the losses still fall as they do without it."""
    launch(tmp_path / "two", "f32", "adamw", "rank=2", processes=2)
    last = lines(tmp_path / "two")[-1]
    plain = lines(alone["adamw"])[-1]
    tell(
        capsys,
        f"PowerSGD, rank 2: {last['traffic_saved']:.3f} of the traffic saved; image nats "
        f"{last['image_nats']:.4f}, without {plain['image_nats']:.4f}",
    )
    assert 0.1 < last["traffic_saved"] < 1
    assert last["image_nats"] != plain["image_nats"]
    assert last["image_nats"] < 1.1 * plain["image_nats"]
    newest = read(found(tmp_path / "two" / "checkpoints", "DALL·E")[-1])
    errors = [t for name, t in newest.tensors.items() if name.startswith("powersgd/error/")]
    assert errors and all(len(t) == 2 for t in errors), "the errors of both processes"
    assert any(t.abs().max() > 0 for t in errors)


def test_a_batch_must_divide_among_processes(tmp_path):
    """4 pictures, 3 processes: one sentence with both numbers."""
    failed = launch(tmp_path / "three", processes=3, check=False)
    assert failed.returncode != 0
    assert re.search(r"batch of 4 does not divide into 3 parts", failed.stderr)
