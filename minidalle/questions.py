"""What a model is asked: the first scenes of a family and split, whatever comes of them.  (Chapter 12)"""

from .data import Scope
from .examiner import fresh
from .world import Scene


def ask(
    learned: Scope, family: str, split: str, n: int, seed: int
) -> tuple[list[Scene], list[str]]:
    """The first n scenes of a family and split that no examiner learned from, and a caption for each.

    Raises ValueError as `examiner.fresh` does.
    """
    scenes, captions = zip(*fresh(family, split, n, seed, learned.where), strict=True)
    return list(scenes), list(captions)
