"""Image tokens: encoded once, memory-mapped, never of another dVAE."""

import itertools

import numpy as np
import pytest
import torch
from builders import tiny_dvae
from torch.utils.data import IterableDataset

import minidalle.tokens as room
from minidalle.data import Example, FewFamilies, Order, Reading, to_float
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
    monkeypatch.setattr(room, "BATCH", 5)  # the last of a file is smaller


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


def test_all_captions_in_order(tmp_path):
    """Read at once they are those read one by one."""
    tokens = encode_once(tiny_dvae(), Pictures(), 50, tmp_path)
    assert list(tokens.captions()) == [tokens[i][0] for i in range(50)]


@pytest.mark.parametrize("stream", [False, True])
def test_workers_change_nothing(tmp_path, stream):
    """Files are the same bytes with two processes that load pictures as with none; a stream has one."""
    dvae, source = tiny_dvae(), Stream([]) if stream else Pictures()
    encode_once(dvae, source, 50, tmp_path / "none")
    encode_once(dvae, source, 50, tmp_path / "two", workers=2)
    files = sorted((tmp_path / "none").rglob("*.safetensors"))
    assert len(files) == 4
    for path in files:
        other = tmp_path / "two" / path.relative_to(tmp_path / "none")
        assert path.read_bytes() == other.read_bytes()


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
        encode_once(dvae, sources[0], 50, tmp_path, 0, 2)
    tokens = encode_once(dvae, sources[1], 50, tmp_path, 1, 2)
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
    """They come again, from the first one on."""
    tokens = encode_once(tiny_dvae(), Pictures(), 60, tmp_path)
    assert len(tokens) == 60 and tokens[53][0] == tokens[3][0]
    assert torch.equal(tokens[53][1], tokens[3][1])


class Stream(IterableDataset):
    """The same pictures, one after the other and again, in no other order."""

    fingerprint = "stream"

    def __init__(self, begun: list[int]):
        self.begun = begun

    def __iter__(self):
        self.begun.append(1)
        return itertools.cycle(iter(Pictures()))


def test_a_stream_is_read_on_and_not_again(tmp_path):
    """Encoding goes once through a stream; a file that is missing later is read from its place in it."""
    dvae, begun = tiny_dvae(), []
    expected = encode_once(dvae, Pictures(), 50, tmp_path / "map")
    tokens = encode_once(dvae, Stream(begun), 50, tmp_path / "stream")
    assert all(torch.equal(tokens[i][1], expected[i][1]) for i in range(50)) and begun == [1]
    (path,) = (tmp_path / "stream").rglob("00002.safetensors")
    data = path.read_bytes()
    path.unlink()
    encode_once(dvae, Stream(begun), 50, tmp_path / "stream")
    assert path.read_bytes() == data


def test_a_source_is_read_by_position():
    """Forwards a stream is read on; to go back it is begun again; both give what a list would."""
    begun, pictures = [], Pictures()
    stream, asked = Reading(Stream(begun)), Reading(pictures)
    for first, n in ((0, 4), (4, 4), (20, 3), (7, 5), (48, 6)):
        positions = range(first, first + n)
        expected = [pictures[p % 50].caption for p in positions]
        assert [e.caption for e in stream.take(positions, first)] == expected
        assert [e.caption for e in asked.take(positions, 0)] == expected
    assert len(begun) == 2


def test_an_order_is_a_shuffled_pass_after_another():
    """Each pass has everything once, in an order of its own, that the seed decides."""
    order = Order(10, seed=1)
    passes = [order(range(10 * k, 10 * k + 10)) for k in range(3)]
    assert all(sorted(each) == list(range(10)) for each in passes)
    assert passes[0] != passes[1] != passes[2] and Order(10, seed=2)(range(10)) != passes[0]
    assert order([25, 3]) == [passes[2][5], passes[0][3]]
    with pytest.raises(ValueError, match="0 examples"):
        Order(0, seed=1)


@pytest.mark.parametrize(
    ("n", "families", "together"), [(120, 3, 2), (123, 11, 1), (40, 1, 1), (50, 2, 2)]
)
def test_a_batch_of_few_families_is_near(n, families, together):
    """Every part of a batch is of one family; each family comes before any comes again; within a family
    every example is seen before any is seen again; a position alone decides, whoever asks."""
    order = FewFamilies(n, seed=1, batch=8, families=families, together=together)
    part = 8 // together
    indices = order(range(80 * part))
    parts = [indices[k : k + part] for k in range(0, len(indices), part)]
    kinds = [{index % families for index in each} for each in parts]
    assert all(len(kind) == 1 for kind in kinds) and len(parts) == 80
    for k in range(0, 80 - families, families):
        assert len(set.union(*kinds[k : k + families])) == families
    for k in range(families):
        members = set(range(k, n, families))
        once = [index for index in indices if index % families == k][: len(members)]
        assert len(set(once)) == len(once) and set(once) <= members
    assert order(range(37, 41)) == indices[37:41]
    assert FewFamilies(n, 2, 8, families, together)(range(len(indices))) != indices


def test_families_divide_a_batch():
    """Equal parts, or an error with both numbers."""
    with pytest.raises(ValueError, match="batch of 9 .* 2 families"):
        FewFamilies(40, 0, 9, 3, 2)
