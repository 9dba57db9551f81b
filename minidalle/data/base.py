"""What every source of captioned pictures is, and how training walks through one.  (Chapters 2 and 14)

A source has a `fingerprint`, `captions`, `training` and `report`; all but the streamed one have ``len`` and
``source[index] -> Example``. Pictures are uint8 (H, W, 3) here and float32 (B, 3, H, W) in [0, 1] as soon as
a model sees them.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from ..world import Scene

SPLITS = ("train", "test")  # of everything but the world, which has a third one
TEST_SHARE = 16  # one picture in sixteen belongs to the test split


class Example(NamedTuple):
    """One captioned picture; ``scene`` holds its facts where they are known."""

    picture: np.ndarray
    caption: str
    scene: Scene | None


class Skipped(NamedTuple):
    """Something that is no example, and why: a word to count by and a sentence to read."""

    name: str
    why: str
    detail: str = ""


class Source(Protocol):
    """What training asks of a source. size: pixels on a side; pictures are square."""

    size: int
    split: str
    label: str  # what a report and a model card call it, without the folders above it
    skipped: Sequence[Skipped]  # what was left out, as far as it can be known before the first step

    @property
    def fingerprint(self) -> str:
        """16 hex digits: the same data the same, any change of it another."""

    def captions(self, n: int) -> list[str]:
        """The first captions, at most n; no picture is decoded for them."""

    def training(self, stage: int | None, seed: int) -> "Source":
        """The examples without end, in random order, augmented as the paper does at this stage."""

    def report(self) -> str:
        """How many pictures there are, and how many were left out, for which reasons."""


class Endless:
    """A source's examples without end, in random order, augmented for a stage; a subclass says how to get at
    them. stage: 1 (dVAE), 2 (DALL·E) or None for the plain middle square."""

    def __init__(self, source: Source, stage: int | None, seed: int):
        self.source, self.stage, self.seed = source, stage, seed
        self.size, self.split, self.label = source.size, source.split, source.label
        self.skipped = source.skipped

    @property
    def fingerprint(self) -> str:
        """Of the source, the augmentation and the order."""
        return digest(self.source.fingerprint, self.stage, self.seed)

    def captions(self, n: int) -> list[str]:
        """The source's."""
        return self.source.captions(n)

    def training(self, stage: int | None, seed: int) -> "Endless":
        """The same pictures for another stage or in another order."""
        return type(self)(self.source, stage, seed)

    def report(self) -> str:
        """The source's."""
        return self.source.report()


def check_split(split: str) -> str:
    """Raise ValueError for a split that pictures from elsewhere do not have."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; these pictures have {' and '.join(SPLITS)}")
    return split


def check_size(size: int) -> int:
    """Raise ValueError for pictures without pixels."""
    if size < 1:
        raise ValueError(f"pictures must have at least 1 pixel on a side, not {size}")
    return size


def split_of(name: str) -> str:
    """The one split of a picture, by a hash of its name: nothing can be in both."""
    first = hashlib.sha256(name.encode(errors="surrogatepass")).digest()[0]
    return "test" if first % TEST_SHARE == 0 else "train"


def digest(*parts: object) -> str:
    """16 hex digits of the parts' ``repr``; for fingerprints."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def clean(text: object) -> str:
    """A caption in one line, without what is no Unicode text; "" for None."""
    words = "" if text is None else " ".join(str(text).split())
    return words.encode(errors="ignore").decode()


def told(reasons: Iterable[str]) -> str:
    """Reasons, counted: "2 unreadable, 1 without a caption"; "none" if there are none."""
    counts = Counter(reasons)
    return ", ".join(f"{n} {why}" for why, n in sorted(counts.items())) or "none"


def to_float(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures (H, W, 3) → one float32 tensor (B, 3, H, W) in [0, 1]. Raises ValueError for others."""
    stacked = np.stack(pictures)
    if stacked.ndim != 4 or stacked.shape[3] != 3:
        raise ValueError(f"pictures must have shape (H, W, 3), not {stacked.shape[1:]}; use RGB")
    if stacked.dtype != np.uint8:
        raise ValueError(
            f"pictures must be uint8, 0 to 255, not {stacked.dtype}; if they lie in [0, 1], use "
            "(255 * picture).round().astype(np.uint8)"
        )
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Float pictures (B, 3, H, W) in [0, 1] → uint8 (B, H, W, 3), rounded."""
    return (pictures * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def batches(
    source: Source, batch: int, steps: int, first: int = 0
) -> Iterator[tuple[Tensor, list[str], list[Scene]]]:
    """``steps`` batches of consecutive examples: pictures (B, 3, H, W), captions, scenes.

    A streamed source is read from its beginning and ``first`` examples of it are passed over.
    """
    examples = walk(source, first)
    for _ in range(steps):
        pictures, captions, scenes = zip(*islice(examples, batch), strict=True)
        yield to_float(pictures), list(captions), list(scenes)


def walk(source: Source, first: int = 0) -> Iterator[Example]:
    """The examples of a source one after the other, from number ``first`` on."""
    if isinstance(source, IterableDataset):
        return islice(source, first, None)
    return (source[index] for index in count(first))


class Reading:
    """A source read by position, whether it can be asked for any example or is streamed.

    The positions of a source that ends go on from its beginning.
    """

    def __init__(self, source: Source):
        self.source = source
        self.stream: Iterator[Example] | None = None
        self.read = 0  # examples that were taken from the stream

    def take(self, positions: range, before: int) -> list[Example]:
        """The examples at some positions. Of a stream, which gives each process and worker a part of its own:
        as many, after the first ``before`` ones of this part; to go back means to read it again."""
        if not isinstance(self.source, IterableDataset):
            n = len(self.source) if hasattr(self.source, "__len__") else None
            return [self.source[p % n if n else p] for p in positions]
        if self.stream is None or before < self.read:
            self.stream, self.read = iter(self.source), 0
        examples = list(
            islice(self.stream, before - self.read, before - self.read + len(positions))
        )
        self.read = before + len(positions)
        return examples


class Order:
    """A shuffled pass over n things, then another, without end: a pure function of the seed.

    Whoever knows the position knows the thing, in any process and after any interruption.
    """

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise ValueError(f"{n} examples to train on; give a source that has some")
        self.n, self.seed = n, seed

    def __call__(self, positions: Sequence[int]) -> list[int]:
        """Which things stand at these positions."""
        return [int(permutation(self.n, self.seed, p // self.n)[p % self.n]) for p in positions]


class FewFamilies:
    """An order like `Order` whose batches are of few families, so that their captions are near.

    n: examples, of which number i belongs to family i mod ``families``; 1 is a plain `Order`. A batch has
    ``together`` equal parts of one family each; each family comes once before any comes again.
    Raises ValueError unless the parts are equal.
    """

    def __init__(self, n: int, seed: int, batch: int, families: int, together: int):
        if batch % together:
            raise ValueError(f"a batch of {batch} does not divide into {together} families")
        self.part = batch // together
        self.families = Order(families, seed)
        self.members = [Order(len(range(k, n, families)), seed + k) for k in range(families)]

    def __call__(self, positions: Sequence[int]) -> list[int]:
        """Which examples stand at these positions."""
        return [self._index(position) for position in positions]

    def _index(self, position: int) -> int:
        part, place = divmod(position, self.part)
        (k,) = self.families([part])
        earlier = part // self.families.n  # parts that were of this family
        (member,) = self.members[k]([earlier * self.part + place])
        return k + member * self.families.n


@lru_cache(maxsize=64)
def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The shuffled numbers 0 … n − 1 of one pass."""
    return torch.randperm(n, generator=generator_of(seed, epoch))


def generator_of(seed: int, number: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator of its own for every number, say for every example that a run sees."""
    mark = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(mark[:4], "big"))
