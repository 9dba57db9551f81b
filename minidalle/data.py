"""Sources of (picture, caption), and the order in which they are seen.  (Chapters 2 and 14)

The one source so far is the `World`, with ``len``, ``source[index] -> Example`` and a ``fingerprint`` that
changes with the pictures. Pictures are uint8 (H, W, 3) here and float32 (B, 3, H, W) in [0, 1] as soon as a
model sees them.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from .files import text_fingerprint
from .world import FAMILIES, SIZES, Scene, family


class Example(NamedTuple):
    """One captioned picture; ``scene`` holds its facts where they are known."""

    picture: np.ndarray
    caption: str
    scene: Scene | None


class Source(Protocol):
    """What training needs of captioned pictures; all of one size."""

    @property
    def fingerprint(self) -> str:
        """Another one for other pictures or captions."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


class World:
    """Captioned pictures of the world, drawn when they are asked for; nothing is stored.

    families: names; example i belongs to family i mod their number. size: pixels on a side.
    split, seed, where: see `Family.example`. length: how many examples there are.
    Raises ValueError for unknown families, sizes, splits and slots.
    """

    def __init__(
        self,
        families: Sequence[str],
        size: int,
        split: str = "train",
        seed: int = 0,
        where: Mapping[str, Sequence[str]] | None = None,
        length: int = 1_000_000,
    ):
        if size not in SIZES:
            raise ValueError(f"the world is drawn at {SIZES} pixels, not at {size}")
        if not families:
            raise ValueError(f"no family given; choose some of {', '.join(FAMILIES)}")
        self.families = [family(name) for name in families]
        self.size, self.split, self.seed, self.where, self.length = size, split, seed, where, length
        self[0]  # a wrong split or slot is reported here, not in the middle of a run

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(f"example {index} of {self.length}")
        each = self.families[index % len(self.families)]
        scene, caption = self.scene(index)
        return Example(each.draw(scene, self.size), caption, scene)

    def scene(self, index: int) -> tuple[Scene, str]:
        """Scene and caption of an example, without drawing it."""
        each = self.families[index % len(self.families)]
        return each.example(index // len(self.families), self.split, self.seed, self.where)

    def caption(self, index: int) -> str:
        """Caption of an example, without drawing it."""
        return self.scene(index)[1]

    @cached_property
    def fingerprint(self) -> str:
        """Of the settings, and of a few pictures of every family: they change when drawing does."""
        names = [each.name for each in self.families]
        settings = (names, self.size, self.split, self.seed, self.where, self.length)
        digest = hashlib.sha256()
        for index in range(min(4 * len(names), self.length)):
            example = self[index]
            digest.update(example.picture.tobytes() + example.caption.encode())
        return text_fingerprint(f"world {settings} {digest.hexdigest()}")


def caption(source: Source, index: int) -> str:
    """The caption of an example; its picture is not made where the source can do without."""
    short = getattr(source, "caption", None)
    return short(index) if short else source[index].caption


class Order:
    """Which examples a run sees: a shuffled pass over all n, then another, without end.

    A pure function of the seed: whoever knows the position knows the example, in any process, after any
    interruption.
    """

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise ValueError(f"{n} examples to train on; give a source that has some")
        self.n, self.seed = n, seed

    def __call__(self, positions: Sequence[int]) -> list[int]:
        """Indices of the examples at positions 0, 1, … of all that the run sees."""
        return [int(permutation(self.n, self.seed, p // self.n)[p % self.n]) for p in positions]


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> Tensor:
    """The shuffled indices 0 … n − 1 of one pass."""
    return torch.randperm(n, generator=generator_of(seed, epoch))


def generator_of(seed: int, number: int) -> torch.Generator:
    """A random generator of its own for every number, say for every example that a run sees."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def to_float(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 pictures (H, W, 3) → one float32 tensor (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def to_uint8(pictures: Tensor) -> np.ndarray:
    """Float pictures (B, 3, H, W) in [0, 1] → uint8 (B, H, W, 3), rounded."""
    return (pictures * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def batches(
    source: World, batch: int, steps: int, first: int = 0
) -> Iterator[tuple[Tensor, list[str], list[Scene]]]:
    """``steps`` batches of consecutive examples: pictures (B, 3, H, W), captions, scenes."""
    for step in range(steps):
        examples = [source[first + step * batch + k] for k in range(batch)]
        pictures, captions, scenes = zip(*examples, strict=True)
        yield to_float(pictures), list(captions), list(scenes)
