"""Checkpoints: what goes in comes out, damage is seen, and there are never too many."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minidalle.checkpoint import KEPT, found, newest, read, remove_unfinished, save
from minidalle.files import write_atomically

TENSORS = {
    "weights/a": torch.randn(3, 4),
    "weights/b": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "random/cpu": torch.arange(256, dtype=torch.uint8),
    "optimizer/a/step": torch.tensor(3.0),
}
FACTS = {"log": [{"stage": "DALL·E", "loss": 0.1 + 0.2}], "averaged": 7}


def test_what_goes_in_comes_out(tmp_path):
    """Every bit of every tensor, and the facts, floats exactly."""
    path = save(tmp_path / "new", "DALL·E", 12, TENSORS, FACTS)
    assert path.name == "dalle-00000012.safetensors"
    step, tensors, facts = read(path)
    assert step == 12 and facts == FACTS and tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    """The bytes of a good checkpoint."""
    return save(tmp_path_factory.mktemp("good"), "dVAE", 5, TENSORS, FACTS).read_bytes()


@given(data=st.data())
def test_any_changed_bit_is_seen(good, data, tmp_path_factory):
    """In header, facts or tensors: the file is called damaged, by its name, and never read."""
    path = tmp_path_factory.mktemp("bits") / "dvae-00000005.safetensors"
    at = data.draw(st.integers(0, 8 * len(good) - 1))
    changed = bytearray(good)
    changed[at // 8] ^= 1 << at % 8
    path.write_bytes(changed)
    with pytest.raises(ValueError, match="dvae-00000005.safetensors is damaged"):
        read(path)


@pytest.mark.parametrize("other", [b"0.30000000000000005", b"0.30000000000000001"])
def test_a_changed_fact_is_seen(good, tmp_path, other):
    """A digit of the log that still is JSON."""
    path = tmp_path / "dvae-00000005.safetensors"
    assert good.count(b"0.30000000000000004") == 1
    path.write_bytes(good.replace(b"0.30000000000000004", other))
    with pytest.raises(ValueError, match="is damaged"):
        read(path)


@given(length=st.integers(0, 3000))
def test_a_file_that_ends_too_early_is_seen(good, tmp_path_factory, length):
    """However much of it is there."""
    path = tmp_path_factory.mktemp("short") / "dvae-00000005.safetensors"
    path.write_bytes(good[: min(length, len(good) - 1)])
    with pytest.raises(ValueError, match="is damaged"):
        read(path)


def test_the_last_few_are_kept(tmp_path):
    """Three of each stage, the newest."""
    for step in range(1, 7):
        save(tmp_path, "dVAE", step, TENSORS, FACTS)
    save(tmp_path, "DALL·E", 1, TENSORS, FACTS)
    assert [read(path).step for path in found(tmp_path, "dVAE")] == [4, 5, 6]
    assert len(found(tmp_path, "DALL·E")) == 1 and KEPT == 3


def test_later_ones_that_were_passed_over_do_not_crowd_out_new_ones(tmp_path):
    """All damaged: the run begins again, and what it saves now is kept, and found by the next one."""
    for step in (500, 750, 1000):
        save(tmp_path, "dVAE", step, TENSORS, FACTS).write_bytes(b"")
    assert newest(tmp_path, "dVAE", lambda word: None) is None
    path = save(tmp_path, "dVAE", 250, TENSORS, FACTS)
    assert found(tmp_path, "dVAE") == [path] and newest(tmp_path, "dVAE", print).step == 250


def test_the_newest_good_one_is_used(tmp_path):
    """Two damaged ones are passed over, each with a word; none left is None."""
    for step in (1, 2, 3):
        save(tmp_path, "dVAE", step, TENSORS, FACTS)
    paths, said = found(tmp_path, "dVAE"), []
    for path in paths[1:]:
        path.write_bytes(b"")
    assert newest(tmp_path, "dVAE", said.append).step == 1
    assert [path.name in word for path, word in zip(paths[:0:-1], said, strict=True)] == [True] * 2
    paths[0].write_bytes(b"junk")
    assert newest(tmp_path, "dVAE", said.append) is None
    assert newest(tmp_path / "nowhere", "dVAE", said.append) is None and len(said) == 5
    assert all("is passed over" in word for word in said)


def test_what_was_never_finished_is_removed(tmp_path):
    """A killed process leaves a hidden file, in any folder of a run; the next one removes it and no other."""
    path = save(tmp_path / "checkpoints", "dVAE", 1, TENSORS, FACTS)
    (tmp_path / ".DS_Store").touch()
    left = []
    for name in ("checkpoints/dvae-00000002.safetensors", "samples-dvae-3.png"):

        def stop(file, name=name):
            left.extend((tmp_path / name).parent.glob(f".{Path(name).name}.*"))
            left[-1].with_name(left[-1].name[:-1] + "x").write_bytes(b"half")

        write_atomically(tmp_path / name, stop)
    assert len(list(tmp_path.rglob(".*"))) == 3
    remove_unfinished(tmp_path)
    assert [each.name for each in tmp_path.rglob(".*")] == [".DS_Store"] and path.exists()
