"""WebDataset shards: tar files of .jpg, .txt and .json, read as a stream.  (Chapters 13 and 14)

For more pictures than a folder is good for: nothing is looked at before it is used. `img2dataset` writes such
files; where a download failed, it leaves a .json without a .jpg. The captions are in .txt or in the .json.
"""

import glob
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path

import torch
from torch.utils.data import IterableDataset

from .base import Endless, Example, Skipped, check_size, check_split, clean, digest, split_of
from .filters import ASPECT, BOILERPLATE, FOREIGN, SHORT, aspect_fault, caption_fault
from .pictures import AUGMENTATIONS, SUFFIXES, Crop, middle, open_picture
from .stored import NO_CAPTION, UNREADABLE

KEPT, NO_PICTURE = "pictures", "without a picture"
DAMAGED, MISSING = "damaged shards", "no such shard"
COUNTED = (KEPT, NO_PICTURE, UNREADABLE, NO_CAPTION, DAMAGED, SHORT, FOREIGN, BOILERPLATE, ASPECT)
WORKERS = (
    256  # rows of the table of counts; each worker has its own, so that none waits for another
)
BUFFER = 512  # samples that are shuffled among each other
EMPTY_EPOCHS = 10  # in a row, after which a reader among several gives up

Sample = dict  # "__key__", "__url__" and, under its suffix, the bytes of every file of that name
Counter = Callable[[str], None]


class Shards(IterableDataset):
    """Captioned pictures from tar files, in their order there; `training` shuffles them and never ends.

    pattern: a folder, a glob or names with braces, as in ``data/{00000..00099}.tar``. size: pixels on a side.
    split: train or test, by a hash of shard and key. filtered: apply the paper's filters. Each process of a
    distributed run, and each worker of a DataLoader in it, reads a part of its own: whole shards or, where
    there are fewer of them than readers, every n-th sample. Do not split again.
    Raises FileNotFoundError if the pattern fits no file.
    """

    def __init__(self, pattern: str, size: int, split: str = "train", filtered: bool = True):
        self.paths, missing = find_shards(pattern)
        self.skipped = [Skipped(str(path), MISSING) for path in missing]
        self.label = f"webdataset:{Path(pattern).name}"
        self.size, self.split, self.filtered = check_size(size), check_split(split), filtered
        self.counts = torch.zeros(WORKERS, len(COUNTED), dtype=torch.int64).share_memory_()

    def __iter__(self) -> Iterator[Example]:
        """This reader's part of the pictures, once, not augmented."""
        counter = self._fresh_counter()
        for sample in self._samples(self.paths, counter):
            if example := self._example(sample, middle, counter):
                yield example

    def training(self, stage: int | None, seed: int) -> "EndlessShards":
        """The pictures without end, shuffled, augmented as the paper does at this stage."""
        return EndlessShards(self, stage, seed)

    def captions(self, n: int) -> list[str]:
        """The first captions of this split, at most n."""
        mine = (caption_of(sample) for sample in samples_of(self.paths) if self._is_mine(sample))
        good = (text for text in mine if text and not (self.filtered and caption_fault(text)))
        return list(islice(good, n))

    @cached_property
    def fingerprint(self) -> str:
        """Of the bytes of every shard (about a second a gigabyte), the size, the split and the filters."""
        marks = [(path.name, hash_of(path)) for path in self.paths]
        return digest("shards", self.size, self.split, self.filtered, marks)

    def report(self) -> str:
        """What the last first pass over the shards has met so far, in this process and its workers."""
        met = dict(zip(COUNTED, self.counts.sum(0).tolist(), strict=True))
        left_out = ", ".join(f"{n} {why}" for why, n in met.items() if n and why != KEPT)
        text = f"{self.label}, {self.split}: {len(self.paths)} shards; read so far: {met[KEPT]} pictures"
        text += f"; left out: {left_out or 'none'}"
        return text + "".join(f"\n  {skip.name}: {skip.why}" for skip in self.skipped)

    def _samples(self, paths: list[Path], counter: Counter) -> Iterator[Sample]:
        """This reader's part of all samples: its shards or, where there are too few, its samples."""
        rank, processes, worker, workers = reader()
        me, readers = rank * workers + worker, processes * workers
        mine = set(paths[me::readers])  # a damaged shard is counted by one reader, whoever reads it

        def damaged(path: Path) -> None:
            if path in mine:
                counter(DAMAGED)

        if len(paths) >= readers:
            return samples_of(paths[me::readers], damaged)
        return islice(samples_of(paths, damaged), me, None, readers)

    def _is_mine(self, sample: Sample) -> bool:
        return split_of(name_of(sample)) == self.split

    def _example(self, sample: Sample, crop: Crop, counter: Counter) -> Example | None:
        """The sample as an example, or None; either is counted, unless it is of the other split."""
        if not self._is_mine(sample):
            return None
        data = next((data for suffix, data in sample.items() if f".{suffix}" in SUFFIXES), None)
        caption = caption_of(sample)
        fault = NO_PICTURE if data is None else None if caption else NO_CAPTION
        if self.filtered and not fault:
            fault = caption_fault(caption)
        if fault:
            return counter(fault)
        try:
            image = open_picture(data, self.size)
        except Exception:  # a hostile file makes Pillow raise almost anything
            return counter(UNREADABLE)
        if self.filtered and aspect_fault(*original_size(sample, image.size)):
            return counter(ASPECT)
        counter(KEPT)
        return Example(crop(image, self.size), caption, None)

    def _fresh_counter(self) -> Counter:
        """Counts in this worker's own row of the table, from 0 on; no row waits for another."""
        worker, workers = reader()[2:]
        self.counts[worker::workers] = 0

        def counter(why: str) -> None:
            self.counts[worker % WORKERS, COUNTED.index(why)] += 1

        return counter


class EndlessShards(Endless, IterableDataset):
    """Shards without end: each epoch in a new order of shards, samples shuffled in a buffer, augmented anew.

    A pure function of (source, stage, seed) and of the number of readers.
    """

    def __iter__(self) -> Iterator[Example]:
        counter, empty = self.source._fresh_counter(), 0
        _, processes, _, workers = reader()
        readers = processes * workers
        for epoch in count():
            examples = self._epoch(epoch, counter if epoch == 0 else lambda why: None)
            empty += 1
            for example in examples:
                empty = 0
                yield example
            # A reader among several may have got nothing but a damaged shard; the next order gives it others.
            if empty == (1 if readers == 1 else EMPTY_EPOCHS):
                raise ValueError(f"there is nothing to train on; {self.source.report()}")

    def _epoch(self, epoch: int, counter: Counter) -> Iterator[Example]:
        rng = random.Random(f"{self.seed}/{epoch}")  # the same for all readers, so that parts fit
        paths = rng.sample(self.source.paths, len(self.source.paths))
        samples = self.source._samples(paths, counter)
        for sample in shuffled(samples, rng):
            own = random.Random(f"{self.seed}/{self.stage}/{epoch}/{name_of(sample)}")
            crop = partial(AUGMENTATIONS[self.stage], rng=own) if self.stage else middle
            if example := self.source._example(sample, crop, counter):
                yield example


def samples_of(
    paths: list[Path], damaged: Callable[[Path], None] = lambda _: None
) -> Iterator[Sample]:
    """All samples of the shards, one shard after the other; a damaged shard gives what comes before the
    damage and is reported."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for path in paths:
        faults: list[Exception] = []

        def note(error: Exception, faults: list[Exception] = faults) -> bool:
            faults.append(error)
            return True  # go on with the next

        try:
            with path.open("rb") as file:
                files = tar_file_expander([{"url": str(path), "stream": file}], note)
                yield from group_by_keys(files, handler=note)
        except OSError as error:
            faults.append(error)
        if faults:
            damaged(path)


def shuffled(samples: Iterator[Sample], rng: random.Random) -> Iterator[Sample]:
    """The samples in a random order, each at most about ``BUFFER`` places early."""
    from webdataset.filters import _shuffle

    return _shuffle(samples, BUFFER, BUFFER, rng)


def reader() -> tuple[int, int, int, int]:
    """(rank, processes, worker, workers) of whoever reads: of the launcher and of the DataLoader."""
    from webdataset.utils import pytorch_worker_info

    return pytorch_worker_info()


def find_shards(pattern: str) -> tuple[list[Path], list[Path]]:
    """The tar files of a pattern, in order, and those that it names and that are not there.

    Raises FileNotFoundError if there is none at all, ValueError for braces that do not fit.
    """
    try:
        from braceexpand import braceexpand
    except ImportError as error:
        raise ValueError(
            "webdataset: needs a library; pip install 'minidalle[webdataset]'"
        ) from error
    folder = Path(pattern).expanduser()
    names = [f"{glob.escape(str(folder))}/*.tar"] if folder.is_dir() else braceexpand(str(folder))
    found = {name: sorted(Path(path) for path in glob.glob(name)) for name in names}
    paths = [path for each in found.values() for path in each]
    if not paths:
        raise FileNotFoundError(f"no tar file fits {pattern}")
    return paths, [Path(name) for name, each in found.items() if not each]


def name_of(sample: Sample) -> str:
    """Shard and key: what a sample is called wherever its folder lies."""
    return f"{Path(sample['__url__']).name}/{sample['__key__']}"


def caption_of(sample: Sample) -> str:
    """The text of .txt or else the caption of .json; "" if there is none that can be read."""
    try:
        text = sample["txt"].decode("utf-8-sig") if "txt" in sample else facts_of(sample)["caption"]
    except (KeyError, UnicodeDecodeError):
        return ""
    return clean(text)


def facts_of(sample: Sample) -> dict:
    """The .json of a sample; empty if it is none."""
    try:
        facts = json.loads(sample.get("json", b"{}"))
    except ValueError:
        facts = {}
    return facts if isinstance(facts, dict) else {}


def original_size(sample: Sample, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that the picture had on the web, which its .json tells; else those that it has."""
    facts = facts_of(sample)
    width, height = facts.get("original_width"), facts.get("original_height")
    return (
        (width, height) if type(width) is type(height) is int and min(width, height) > 0 else size
    )


def hash_of(path: Path) -> str:
    """SHA-256 of a file of any size."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            whole.update(block)
    return whole.hexdigest()
