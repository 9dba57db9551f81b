"""Any source of captioned pictures: the world, emoji, a folder, shards, the hub.  (Chapters 2 and 14)

    source("world", size=64)
    source("emoji", size=64, split="test")
    source("folder:pictures", size=128)
    source("webdataset:shards/{00000..00099}.tar", size=128)
    source("hub:NAME,image=COLUMN,caption=COLUMN", size=128)

Read the files in this order: base, loading, scenes, pictures, filters, stored, folder, emoji, hub, shards.
"""

from collections.abc import Mapping, Sequence

from ..world import FAMILIES
from .base import (
    Example,
    FewFamilies,
    Order,
    Reading,
    Skipped,
    Source,
    batches,
    generator_of,
    to_float,
    to_uint8,
    walk,
)
from .loading import load_ahead
from .scenes import Scope, World, turns

__all__ = [
    "Example",
    "FewFamilies",
    "Order",
    "Reading",
    "Scope",
    "Skipped",
    "Source",
    "World",
    "batches",
    "generator_of",
    "load_ahead",
    "source",
    "to_float",
    "to_uint8",
    "turns",
    "walk",
]

FORMS = "world, emoji, folder:PATH, webdataset:PATTERN or hub:NAME"
WITH_PLACE = ("folder", "webdataset", "hub")


def source(
    data: str,
    size: int,
    split: str = "train",
    seed: int = 0,
    filtered: bool | None = None,
    families: Sequence[str] = tuple(FAMILIES),
    where: Mapping[str, Sequence[str]] | None = None,
) -> Source:
    """The source that a ``--data`` argument names.

    size: pixels on a side. split: train or test (the world has zero-shot, too). seed: of the world's scenes.
    filtered: drop what the paper's filters drop (see `filters`); None: where pictures come from the
    web, which is webdataset. families, where: of the world. Raises ValueError for an unknown kind, and what
    the source itself raises, OSError or ValueError, where it has nothing to give.
    """
    kind, _, place = data.partition(":")
    if bool(place) != (kind in WITH_PLACE) or (":" in data and not place):
        raise ValueError(f"--data is {FORMS}, not {data!r}")
    if kind == "world":
        return World(families, size, split, seed, where)
    if kind == "emoji":
        from .emoji import Emoji

        return Emoji(size, split)
    if kind == "folder":
        from .folder import Folder

        return Folder(place, size, split, bool(filtered))
    if kind == "webdataset":
        from .shards import Shards

        return Shards(place, size, split, filtered is not False)
    if kind == "hub":
        from .hub import Hub

        return Hub(place, size, split, bool(filtered))
    raise ValueError(f"--data is {FORMS}, not {data!r}")
