"""Sources of (picture, caption), and the tokens of stage 2.  (Chapters 2 and 14)

The one source so far is the `World`, with ``len`` and ``source[index] -> Example``. Pictures are uint8
(H, W, 3) here and float32 (B, 3, H, W) in [0, 1] as soon as a model sees them.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .world import FAMILIES, SIZES, Scene, family


class Example(NamedTuple):
    """One captioned picture; ``scene`` holds its facts where they are known."""

    picture: np.ndarray
    caption: str
    scene: Scene | None


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
