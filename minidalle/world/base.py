"""Scenes, families and splits: the interface that every family of pictures has.  (Chapter 2)

A *family* is one capability of DALL·E in miniature ("attributes", "objects", "lettering", …). It knows
its *slots* (the facts that a caption states and an examiner can check), samples scenes, phrases captions
and draws. A *scene* is a handful of small discrete values, so that two scenes are the same or they are
not, and a split can be a property of the scene itself instead of a shuffled list that one has to trust.
"""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "test", "zero-shot")
SIZES = (24, 32, 64, 128)
TEST_SHARE = 16  # of the scenes that are not held out, one in sixteen belongs to the test split

Slots = dict[str, str]


@dataclass(frozen=True)
class Scene:
    """What a picture shows.

    slots: the stated facts, slot name → value, e.g. ``{"colour": "red", "shape": "circle"}``.
    layout: what captions leave open (places, tilt, background) as small integers.
    """

    family: str
    slots: Slots
    layout: tuple[int, ...]

    def digest(self) -> bytes:
        """A hash of the whole scene, the same on every machine.

        Other scenes are other pictures, except that at 24 and 32 pixels neighbouring layouts can round
        to the same one.
        """
        text = repr((self.family, sorted(self.slots.items()), self.layout))
        return hashlib.sha256(text.encode()).digest()


class Family(ABC):
    """One family of captioned pictures. A subclass is one file; the world finds it by itself.

    name: how the command line and the scoreboard call it.
    slots: every slot with all its values, in a fixed order (the examiner's classes).
    held_out: the compositions that no training picture shows, as readable tuples.
    flaws: names of what `flawed` can do to a picture, if anything.
    """

    flaws: tuple[str, ...] = ()
    name: str
    slots: Mapping[str, tuple[str, ...]]
    held_out: tuple[tuple[str, ...], ...]

    @abstractmethod
    def sample(self, rng: random.Random) -> Scene:
        """Draw a scene, held out or not. The only place where a family uses randomness."""

    @abstractmethod
    def captions(self, scene: Scene) -> list[str]:
        """All phrasings of the scene, the plainest first."""

    @abstractmethod
    def draw(self, scene: Scene, size: int) -> np.ndarray:
        """The picture, uint8 ``(size, size, 3)``: a pure function of the scene and the size."""

    @abstractmethod
    def is_held_out(self, slots: Slots) -> bool:
        """Whether the scene contains a composition of ``held_out``."""

    def flawed(self, scene: Scene, flaw: str, size: int, rng: random.Random) -> np.ndarray | None:
        """The picture with one of ``flaws``: nearly the scene's, but wrong, as a drawing model may get it.

        For the examiner alone, which must not be content with it (chapter 12). None where the scene has
        nothing that could be wrong in this way.
        """
        return None

    def split_of(self, scene: Scene) -> str:
        """The one split that the scene belongs to, whoever sampled it and when.

        Splits are disjoint by construction: the answer depends on nothing but the scene.
        """
        if self.is_held_out(scene.slots):
            return "zero-shot"
        return "test" if scene.digest()[0] % TEST_SHARE == 0 else "train"

    def example(
        self,
        index: int,
        split: str = "train",
        seed: int = 0,
        where: Mapping[str, Sequence[str]] | None = None,
    ) -> tuple[Scene, str]:
        """Scene and caption number ``index``: a pure function of (family, index, split, seed, where).

        where: allowed values of some slots, e.g. ``{"count": ("one",)}``; None allows everything.
        Raises ValueError for an unknown split, slot or value, where nothing fits ``where``, and for zero-shot
        scenes of a family that holds nothing out.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        if split == "zero-shot" and not self.held_out:
            raise ValueError(
                f"the family {self.name!r} holds no composition out, so it has no zero-shot scenes; "
                "list some in held_out"
            )
        where = where or {}
        self._check_where(where)
        rng = random.Random(f"{self.name}/{split}/{seed}/{index}")
        for _ in range(100_000):
            scene = self.sample(rng)
            allowed = all(scene.slots.get(slot) in values for slot, values in where.items())
            if allowed and self.split_of(scene) == split:
                return scene, rng.choice(self.captions(scene))
        raise ValueError(f"no {split} scene of {self.name!r} fits {dict(where)}; allow more values")

    def own(self, where: Mapping[str, Sequence[str]] | None) -> dict[str, Sequence[str]]:
        """The part of ``where`` that is about slots of this family."""
        return {slot: values for slot, values in (where or {}).items() if slot in self.slots}

    def _check_where(self, where: Mapping[str, Sequence[str]]) -> None:
        for slot, values in where.items():
            if isinstance(values, str):
                raise ValueError(f"allowed values of {slot!r} must be a tuple, e.g. ({values!r},)")
            if slot not in self.slots:
                known = ", ".join(self.slots)
                raise ValueError(f"{self.name!r} has no slot {slot!r}; its slots are {known}")
            unknown = [value for value in values if value not in self.slots[slot]]
            if unknown:
                known = ", ".join(self.slots[slot])
                raise ValueError(
                    f"slot {slot!r} has no value {unknown[0]!r}; its values are {known}"
                )
