"""The world as a source: pictures of which every fact is known, drawn when asked for.  (Chapter 2)"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .. import world
from ..world import FAMILIES, SIZES, Family, Scene, family
from .base import Example, digest


@dataclass(frozen=True)
class Scope:
    """The part of the world that a model learns. families: names. where: allowed slot values, see `World`."""

    families: tuple[str, ...]
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class World:
    """Captioned pictures of the world, drawn when they are asked for; nothing is stored.

    families: names; example i belongs to family i mod their number, and one that is named twice has two
    turns in every round, each with a scene of its own. size: pixels on a side.
    split, seed, where: see `Family.example`; a slot of ``where`` matters to the families that have it.
    length: how many examples there are.
    Raises ValueError for unknown families, sizes, splits and slots.
    """

    label = "world"
    skipped: tuple[()] = ()

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
        slots = {slot for each in self.families for slot in each.slots}
        if unknown := set(where or {}) - slots:
            known = ", ".join(sorted(slots))
            raise ValueError(f"no family here has a slot {min(unknown)!r}; their slots are {known}")
        for k in range(len(self.families)):
            self.scene(k)  # a wrong split or value is reported here, not in the middle of a run

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(f"example {index} of {self.length}")
        scene, caption = self.scene(index)
        return Example(family(scene.family).draw(scene, self.size), caption, scene)

    def scene(self, index: int) -> tuple[Scene, str]:
        """Scene and caption of an example, without drawing it."""
        each, number = self._number(index)
        return each.example(number, self.split, self.seed, each.own(self.where))

    def _number(self, index: int) -> tuple[Family, int]:
        """Whose example it is, and its number among the examples of that family."""
        rounds, turn = divmod(index, len(self.families))
        each = self.families[turn]
        return each, rounds * self.families.count(each) + self.families[:turn].count(each)

    def with_more(self, names: Sequence[str]) -> "World":
        """The same world, in which some families have more turns than they had."""
        families = [*(each.name for each in self.families), *names]
        return World(families, self.size, self.split, self.seed, self.where, self.length)

    @cached_property
    def fingerprint(self) -> str:
        """Of the settings and of the code that draws: the pictures are a pure function of both."""
        code = [
            path.read_text("utf-8") for path in sorted(Path(world.__file__).parent.glob("*.py"))
        ]
        names = [each.name for each in self.families]
        where = sorted((self.where or {}).items())
        return digest("world", names, self.size, self.split, self.seed, where, self.length, code)

    def captions(self, n: int) -> list[str]:
        """The captions of the first n examples."""
        return [self.scene(index)[1] for index in range(min(n, self.length))]

    def training(self, stage: int | None, seed: int) -> "World":
        """Itself: every example is a new random one, and a mirrored one would belie its caption."""
        return self

    def report(self) -> str:
        """What is drawn."""
        names = turns([each.name for each in self.families])
        return f"{self.split}: as many pictures as are asked for, of {names}"


def turns(families: Sequence[str]) -> str:
    """Each family once, in words that say which have several turns: "attributes (3 turns), objects"."""
    counts = Counter(families)
    return ", ".join(f"{name} ({n} turns)" if n > 1 else name for name, n in counts.items())
