"""Several processes (gloo, on the CPU): the losses of one, data of their own, resumption (slow)."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from runs import assert_same_run, launch, lines

from minidalle.checkpoint import found, read

pytestmark = pytest.mark.slow
DDP, FSDP = "--multi_gpu", "--use_fsdp --fsdp_version 2"  # accelerate's words, on CPUs too
EXACT = 1e-5  # of float32 sums in another order; measured: 4e-7
MUON = 2e-3  # Muon orthogonalises in bfloat16, which makes more of such differences; measured: 4e-4
KERNELS = (
    0.05  # with Muon for the dVAE too: one code that turns changes all after it; measured: 2e-2
)
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[..., Path]:
    """Folders of runs that nothing interrupted, in one process or in two; each is made once."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def made(words: str, how: str = "") -> Path:
        out = folder / f"{words}{how}".replace(" ", "")
        launch(out, "f32", *words.split(), processes=2 if how else 1, how=how)
        return out

    return made


@pytest.mark.parametrize("how", [DDP, FSDP])
@pytest.mark.parametrize(
    ("words", "bound"), [("muon", MUON), ("adamw", EXACT), ("kernels", KERNELS)]
)
def test_two_processes_have_the_losses_of_one(words, bound, how, whole, tell):
    """The same global batch, by DDP and by FSDP, with our optimisers and with the paper's."""
    difference = worst(whole(words), whole(words, how))
    tell(f"two processes, {how}, {words}: losses differ by {difference:.1e}")
    assert difference < bound


def test_fsdp_divides_the_weights(tmp_path):
    """Each process holds half of every stage's numbers (give or take odd sizes), DDP's all of them."""
    held = {}
    for name, how in (("fsdp", FSDP), ("ddp", DDP)):
        launch(tmp_path / name, "held", processes=2, how=how)
        texts = [(tmp_path / f"{name}.held{k}").read_text().split() for k in (0, 1)]
        held[name] = [[int(text) for text in each] for each in texts]
    assert held["ddp"][0] == held["ddp"][1] and len(held["ddp"][0]) == 2
    for stage, everything in enumerate(held["ddp"][0]):
        parts = [held["fsdp"][k][stage] for k in (0, 1)]
        assert sum(parts) == everything and min(parts) > 0.4 * everything


@pytest.mark.parametrize("how", ["", DDP])
def test_parts_of_a_batch_have_the_losses_of_the_whole(how, whole):
    """Gradient accumulation, in one process and in two; the parts have unequal numbers of text targets."""
    assert worst(whole("adamw"), whole("adamw parts", how)) < EXACT


def test_processes_see_data_of_their_own(tmp_path):
    """In stage 1 no picture is drawn by both, and together they draw what one process would."""
    launch(tmp_path / "two", "watch", processes=2)
    launch(tmp_path / "one", "watch")
    seen = [
        [int(text) for text in (tmp_path / name).read_text().splitlines()]
        for name in ("two.seen0", "two.seen1", "one.seen0")
    ]
    # The first process encodes the first 40 for stage 2.
    first, second, alone = (seen[0][:-40], seen[1], seen[2][:-40])
    assert seen[0][-40:] == seen[2][-40:] == list(range(40))
    assert len(first) == len(second) == 24
    assert not set(first) & set(second)
    assert sorted(first + second) == sorted(alone) == list(range(48))


@pytest.mark.parametrize(
    ("how", "words", "die"),
    [
        (DDP, "muon", 2),
        (DDP, "muon", 6),
        (DDP, "adamw rank=2", 7),
        (FSDP, "muon", 6),
        (DDP, "muon clip", 10),
        (FSDP, "adamw clip", 10),
    ],
)
def test_two_processes_go_on_after_a_kill(how, words, die, whole, tmp_path):
    """The first process is killed while it writes a checkpoint, the launcher ends the other; the rerun ends
    with the same log and the same bits (sums of two are in a fixed order), PowerSGD's errors included."""
    out = tmp_path / "killed"
    killed = launch(out, "f32", *words.split(), f"die={die}", processes=2, how=how, check=False)
    assert killed.returncode != 0 and not (out / "config.json").exists()
    again = launch(out, "f32", *words.split(), processes=2, how=how)
    assert "going on from step" in again.stdout + again.stderr
    assert_same_run(out, whole(words, how))


def test_a_run_of_two_processes_goes_on_in_one(whole, tmp_path):
    """Checkpoints are whole: another number of processes reads them."""
    out = tmp_path / "two"
    launch(out, "f32", "adamw", "die=6", processes=2, how=FSDP, check=False)
    launch(out, "f32", "adamw")
    assert worst(whole("adamw"), out) < EXACT


def test_powersgd_sends_less(whole, tell):
    """The share of numbers that are not sent is logged; the losses still fall as they do without it."""
    out = whole("adamw rank=2", DDP)
    last, plain = lines(out)[-1], lines(whole("adamw"))[-1]
    tell(
        f"PowerSGD, rank 2: {last['traffic_saved']:.3f} of the traffic saved; image nats "
        f"{last['image_nats']:.4f}, without {plain['image_nats']:.4f}",
    )
    assert 0.1 < last["traffic_saved"] < 1
    assert last["image_nats"] != plain["image_nats"]
    assert last["image_nats"] < 1.1 * plain["image_nats"]
    newest = read(found(out / "checkpoints", "DALL·E")[-1])
    errors = [t for name, t in newest.tensors.items() if name.startswith("powersgd/error/")]
    assert errors and all(len(t) == 2 for t in errors), "the errors of both processes"
    assert any(t.abs().max() > 0 for t in errors)


def test_a_batch_must_divide_among_processes(tmp_path):
    """4 pictures, 3 processes: one sentence with both numbers."""
    failed = launch(tmp_path / "three", processes=3, check=False)
    assert failed.returncode != 0
    assert re.search(r"batch of 4 does not divide into 3 parts", failed.stderr)
