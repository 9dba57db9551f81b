"""A model's many answers to each caption, with what CLIP thinks of them.  (Chapter 12)

Nothing here knows the examiner. Speed counts: large batches, and 16 bit for the products with weights where
the processor has it (see `device`); scores, cache and pictures stay in 32 bit. A single sample is then
another one than `Bundle.draw` would draw from the same numbers, of the same distribution up to rounding.
"""

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .bundle import TEMPERATURE, TOP_K, Bundle
from .clip import best_of
from .data import to_float
from .device import autocast
from .generate import Sampling, generate
from .world import FAMILIES, Scene

BATCH = 256  # pictures at a time; see `minidalle bench`
DECODED = 128  # by the dVAE at a time


@dataclass
class Candidates:
    """What a model drew for C captions: tokens (C, n, N), pictures float32 (C, n, 3, S, S) on the CPU, and
    their similarity to the caption by CLIP, (C, n); None without a CLIP."""

    tokens: Tensor
    pictures: Tensor
    similarity: Tensor | None

    @property
    def first(self) -> Tensor:
        """One sample for each caption, not chosen by anybody: (C, 3, S, S)."""
        return self.pictures[:, 0]

    @property
    def best(self) -> Tensor:
        """The candidate of each caption that CLIP likes best, (C, 3, S, S). Without a CLIP a ValueError."""
        if self.similarity is None:
            raise ValueError("the model has no CLIP: nothing is best; take `first`")
        (chosen,) = best_of(self.similarity, 1).T
        return self.pictures[torch.arange(len(chosen)), chosen]


class Clock:
    """Seconds that each kind of work took, and for how many pictures."""

    def __init__(self):
        self.spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])

    @contextmanager
    def __call__(self, what: str, pictures: int) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[what][0] += time.perf_counter() - began
        self.spent[what][1] += pictures

    def __str__(self) -> str:
        each = [
            f"{what} {seconds:.0f} s, {pictures / max(seconds, 1e-9):,.0f} pictures/s"
            for what, (seconds, pictures) in self.spent.items()
        ]
        return " · ".join(each)


def paint(scenes: Sequence[Scene], size: int) -> Tensor:
    """The true pictures, float32 (n, 3, size, size)."""
    return to_float([FAMILIES[scene.family].draw(scene, size) for scene in scenes])


def noise(seed: int, *names: str) -> torch.Generator:
    """A generator of its own for every part of an examination, so that none depends on the others."""
    mark = hashlib.sha256("/".join([str(seed), *names]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(mark[:7], "big"))


def draw_tokens(
    bundle: Bundle,
    captions: Sequence[str],
    n: int,
    generator: torch.Generator,
    image: Tensor | None = None,
    rows: int = 0,
) -> Tensor:
    """n pictures' tokens for each caption, (C, n, N), sampled as `Bundle.draw` does by default.

    image (C, N), rows: tokens that are given, as in `generate`.
    """
    text = bundle.tokenizer.encode(list(captions)).to(bundle.device)
    how = Sampling(TEMPERATURE, TOP_K)
    with autocast(bundle.device):
        tokens = generate(bundle.dalle, text, generator, n, how, image, rows, BATCH)
    return tokens.unflatten(0, (len(captions), n))


@torch.inference_mode()
def decode(bundle: Bundle, tokens: Tensor) -> Tensor:
    """Tokens (B, N) → pictures (B, 3, S, S) on the CPU."""
    return torch.cat([bundle.dvae.decode(part).cpu() for part in tokens.split(DECODED)])


@torch.inference_mode()
def encode(bundle: Bundle, pictures: Tensor) -> Tensor:
    """Pictures (B, 3, S, S) → tokens (B, N) on the bundle's device."""
    parts = [bundle.dvae.encode(part.to(bundle.device)) for part in pictures.split(DECODED)]
    return torch.cat(parts)


def draw_candidates(
    bundle: Bundle, captions: Sequence[str], n: int, generator: torch.Generator, clock: Clock
) -> Candidates:
    """n candidates for each caption, seen by CLIP if there is one."""
    pictures, C = n * len(captions), len(captions)
    with clock("sampling", pictures):
        tokens = draw_tokens(bundle, captions, n, generator)
    with clock("decoding", pictures):
        decoded = decode(bundle, tokens.flatten(0, 1))
    if bundle.clip is None:
        return Candidates(tokens.cpu(), decoded.unflatten(0, (C, n)), None)
    with clock("CLIP", pictures):
        pairs = zip(decoded.split(n), captions, strict=True)
        similarity = [bundle.similarity(each, caption)[:, 0] for each, caption in pairs]
    return Candidates(tokens.cpu(), decoded.unflatten(0, (C, n)), torch.stack(similarity))
