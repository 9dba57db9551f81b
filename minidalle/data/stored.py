"""Pictures that can be asked for by number: looked at once, then read when they are needed.  (Chapter 14)"""

import hashlib
import random
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ..show import quiet
from .base import Endless, Example, Skipped, check_size, check_split, digest, split_of, told
from .filters import aspect_fault, caption_fault
from .pictures import AUGMENTATIONS, middle, open_picture

UNREADABLE, NO_CAPTION = "unreadable", "without a caption"
LENGTH = 1_000_000
NAMED = 5  # left-out files that a report names; all are in `skipped`


class Pictures(ABC):
    """Map-style pictures with captions, and everything about them that does not depend on where they are."""

    label: str
    names: list[str]  # of the pictures of this split
    texts: list[tuple[str, ...]]  # each picture's captions, at least one
    fingerprint: str

    def __init__(self, size: int, split: str):
        self.size, self.split = check_size(size), check_split(split)
        self.skipped: list[Skipped] = []

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """A picture as RGB, upright, of any shape."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        return Example(middle(self.open(index), self.size), self.texts[index][0], None)

    def captions(self, n: int) -> list[str]:
        """The first captions, at most n; a picture that has several gives them all."""
        return list(islice((caption for texts in self.texts for caption in texts), n))

    def training(self, stage: int | None, seed: int) -> "Epochs":
        """The pictures without end, in random order, augmented as the paper does at this stage."""
        return Epochs(self, stage, seed)

    def report(self) -> str:
        """How many pictures there are, and how many were left out, why, and the first of them by name."""
        text = f"{self.label}, {self.split}: {len(self)} pictures; "
        text += f"left out: {told(skip.why for skip in self.skipped)}"
        for skip in self.skipped[:NAMED]:
            text += f"\n  {skip.name}: {skip.why}{': ' * bool(skip.detail)}{skip.detail}"
        more = len(self.skipped) - NAMED
        text += f"\n  and {more} more" if more > 0 else ""
        return text.encode(errors="replace").decode()  # a file's name can be no Unicode text


class Epochs(Endless):
    """Pictures without end: epoch after epoch, each in a new order, each picture augmented anew.

    ``epochs[position]`` is a pure function of (source, stage, seed, position), so that a run goes on where it
    stopped, and any number of workers can share the positions. Where a picture has several captions, one is
    drawn.
    """

    def __init__(self, source: Pictures, stage: int | None, seed: int):
        if not len(source):
            raise ValueError(f"{source.label} has no picture in its {source.split} split")
        super().__init__(source, stage, seed)

    def __len__(self) -> int:
        """As many as the world has, for who asks; there is an example at every position beyond."""
        return LENGTH

    def __getitem__(self, position: int) -> Example:
        epoch, place = divmod(position, len(self.source))
        index = int(order(len(self.source), self.seed, epoch)[place])
        rng = random.Random(f"{self.seed}/{self.stage}/{position}")
        caption = rng.choice(self.source.texts[index])
        if self.stage is None:
            return self.source[index]._replace(caption=caption)
        picture = AUGMENTATIONS[self.stage](self.source.open(index), self.size, rng)
        return Example(picture, caption, None)


@lru_cache(maxsize=32)
def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n pictures in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(n)


class Scanned(Pictures):
    """Pictures in files: each is read and decoded once at the start, so that every fault is known before the
    first step and an index always has a picture behind it."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The file of a picture."""

    def open(self, index: int) -> Image.Image:
        """The picture, decoded from its file."""
        return open_picture(self.read(self.names[index]), self.size)

    def scan(self, found: dict[str, list[str]], filtered: bool) -> None:
        """Keep what can be learned from; list everything else in `skipped`.

        found: name → captions of every picture, in a fixed order; those of the other split are not looked at.
        filtered: also drop what the paper's filters drop. Raises ValueError if nothing is left to train on.
        """
        mine = {name: captions for name, captions in found.items() if split_of(name) == self.split}
        self.names, self.texts, marks = [], [], []
        with (
            warnings.catch_warnings()
        ):  # Pillow's, about files that it reads or refuses all the same
            warnings.simplefilter("ignore")
            for name, captions, seen in self._look_at(mine, filtered):
                if isinstance(seen, Skipped):
                    self.skipped.append(seen)
                else:
                    self.names.append(name)
                    self.texts.append(captions)
                    marks.append(seen)
        self.fingerprint = digest(
            "stored", self.size, self.split, list(zip(self.names, self.texts, marks, strict=True))
        )
        if not self.names and self.split == "train":
            raise ValueError(
                f"nothing is left to train on in {self.label}; "
                f"left out: {told(skip.why for skip in self.skipped)}"
            )

    def _look_at(
        self, mine: dict[str, list[str]], filtered: bool
    ) -> Iterator[tuple[str, tuple[str, ...], str | Skipped]]:
        """Name, captions that are kept, and a hash of the file or why it is left out; several at a time."""
        kept = {name: tuple(c for c in captions if c) for name, captions in mine.items()}
        faults = {}
        if filtered:
            for name, captions in kept.items():
                faults[name] = [fault for fault in map(caption_fault, captions) if fault]
                kept[name] = tuple(c for c in captions if not caption_fault(c))

        def look(name: str) -> str | Skipped:
            if not kept[name]:
                return Skipped(name, (faults.get(name) or [NO_CAPTION])[0])
            try:
                data = self.read(name)
                width, height = open_picture(data, self.size).size
            except Exception as error:  # a hostile file makes Pillow raise almost anything
                return Skipped(name, UNREADABLE, f"{error}" or type(error).__name__)
            fault = aspect_fault(width, height) if filtered else None
            return Skipped(name, fault) if fault else hashlib.sha256(data).hexdigest()[:16]

        with ThreadPoolExecutor() as pool:
            looks = pool.map(look, kept)
            bar = tqdm(looks, self.label, len(kept), False, unit="picture", disable=quiet())
            try:
                for (name, captions), seen in zip(kept.items(), bar, strict=True):
                    yield name, captions, seen
            finally:
                pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest
