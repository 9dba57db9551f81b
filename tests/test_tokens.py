"""Image tokens: encoded once, memory-mapped, never of another dVAE."""

import numpy as np
import pytest
import torch
from builders import tiny_dvae

import minidalle.tokens as room
from minidalle.data import Example, World, to_float
from minidalle.tokens import encode_once


class Pictures:
    """A source of random pictures of 8 pixels that counts how often it is asked."""

    def __init__(self, n: int = 50, fingerprint: str = "one"):
        generator = np.random.default_rng(0)
        self.pictures = generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        self.fingerprint, self.asked = fingerprint, 0

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Example:
        self.asked += 1
        return Example(self.pictures[index], f"picture {index} · кот" * (index % 3), None)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(room, "SHARD", 16)


def test_tokens_are_the_dvaes_and_captions_the_sources(tmp_path):
    """Any index, across files; the empty caption too."""
    dvae, source = tiny_dvae(), Pictures()
    tokens = encode_once(dvae, source, 50, tmp_path)
    assert len(tokens) == 50 and len(list(tmp_path.rglob("*.safetensors"))) == 4
    for index in (0, 1, 15, 16, 47, 48, 49):
        caption, row = tokens[index]
        picture, expected, _ = source[index]
        assert caption == expected and row.dtype == torch.int64
        assert torch.equal(row, dvae.encode(to_float([picture]))[0])
    with pytest.raises(IndexError):
        tokens[50]


def test_they_are_encoded_once(tmp_path, monkeypatch):
    """The second time no picture is asked for, the dVAE is not run."""
    dvae, source = tiny_dvae(), Pictures()
    first = encode_once(dvae, source, 40, tmp_path)
    asked = source.asked
    monkeypatch.setattr(type(dvae), "encode", None)
    again = encode_once(dvae, source, 40, tmp_path)
    assert source.asked == asked == 40
    assert all(torch.equal(first[i][1], again[i][1]) for i in range(40))


def test_a_changed_dvae_encodes_again(tmp_path):
    """One weight moved by the smallest step: other files, no old token among them."""
    dvae, source = tiny_dvae(), Pictures()
    encode_once(dvae, source, 40, tmp_path)
    with torch.no_grad():
        weight = dvae.encoder.layers[1].weight
        weight[0, 0, 0, 0] = torch.nextafter(weight[0, 0, 0, 0], torch.tensor(9.0))
    before, source.asked = {path.parent for path in tmp_path.rglob("*.safetensors")}, 0
    encode_once(dvae, source, 40, tmp_path)
    assert source.asked == 40
    assert len({path.parent for path in tmp_path.rglob("*.safetensors")} - before) == 1


def test_other_pictures_are_encoded_anew(tmp_path):
    """Another fingerprint of the source, or another number of pictures: other files."""
    dvae = tiny_dvae()
    for source, n in ((Pictures(), 40), (Pictures(fingerprint="two"), 40), (Pictures(), 41)):
        encode_once(dvae, source, n, tmp_path)
        assert source.asked == n


def test_files_that_were_put_there_are_not_mixed_in(tmp_path):
    """A file of another dVAE under the right name is recognised, named and encoded again."""
    one, other, said = tiny_dvae(), tiny_dvae(), []
    encode_once(one, Pictures(), 40, tmp_path / "one")
    tokens = encode_once(other, Pictures(), 40, tmp_path / "other")
    (wrong,) = (tmp_path / "one").rglob("00001.safetensors")
    (right,) = (tmp_path / "other").rglob("00001.safetensors")
    expected = [tokens[i][1].clone() for i in range(40)]
    right.unlink()
    right.write_bytes(wrong.read_bytes())
    source = Pictures()
    again = encode_once(other, source, 40, tmp_path / "other", say=said.append)
    assert source.asked == 16 and "belongs to another dVAE" in said[0] and str(right) in said[0]
    assert all(torch.equal(again[i][1], expected[i]) for i in range(40))


def test_a_damaged_file_is_encoded_again(tmp_path):
    """Half a file: named, and only its pictures are encoded."""
    dvae, said = tiny_dvae(), []
    encode_once(dvae, Pictures(), 40, tmp_path)
    (path,) = tmp_path.rglob("00002.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    source = Pictures()
    assert len(encode_once(dvae, source, 40, tmp_path, say=said.append)) == 40
    assert source.asked == 8 and str(path) in said[0]


def test_processes_share_the_work(tmp_path):
    """Each encodes files of its own, and reads all of them when the others are done."""
    dvae, sources = tiny_dvae(), [Pictures(), Pictures()]
    with pytest.raises(FileNotFoundError):  # alone, without waiting for the other
        encode_once(dvae, sources[0], 50, tmp_path, mine=lambda k: k % 2 == 0)
    tokens = encode_once(dvae, sources[1], 50, tmp_path, mine=lambda k: k % 2 == 1)
    assert [source.asked for source in sources] == [32, 18] and len(tokens) == 50


def test_files_are_not_read_until_they_are_used(tmp_path):
    """Memory-mapped: opening 64 MB of tokens takes next to no memory, reading them all does."""
    path = tmp_path / "00000.safetensors"
    room.write_shard(path, "key", [""] * 4096, torch.zeros(4096, 4096, dtype=torch.int64))
    before = resident()
    tokens = room.ImageTokens([path])
    tokens[17], tokens[4000]
    opened = resident() - before
    tokens.shards[0]["tokens"].sum()
    assert opened < 8e6 < 40e6 < resident() - before


def resident() -> int:
    """Bytes of this process in memory."""
    import psutil

    return psutil.Process().memory_info().rss


def test_more_pictures_than_there_are(tmp_path):
    """Both numbers in the message."""
    with pytest.raises(ValueError, match="60 pictures to encode, but the source has 50"):
        encode_once(tiny_dvae(), Pictures(), 60, tmp_path)


def test_a_worlds_fingerprint_changes_with_its_pictures(monkeypatch):
    """With every setting, and when a family is drawn in another way."""
    first = {"families": ["attributes"], "size": 24}
    marks = {World(**first).fingerprint}
    assert World(**first).fingerprint in marks
    for change in (
        {"seed": 1}, {"split": "test"}, {"size": 32}, {"length": 5}, {"where": {"count": ("one",)}},
        {"families": ["objects"]},
    ):  # fmt: skip
        marks.add(World(**{**first, **change}).fingerprint)
    world = World(**first)
    example = world[0]._replace(picture=world[0].picture ^ 1)
    monkeypatch.setattr(World, "__getitem__", lambda self, index: example)
    marks.add(World(**first).fingerprint)
    assert len(marks) == 8
