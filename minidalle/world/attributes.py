"""Attributes: one kind of thing with a count, a size, a colour, a pattern and a shape.

The paper's capability: controlling attributes and the number of times that an object appears.
"""

import random

import numpy as np

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, HELD_OUT_PAIRS, PALETTE, SHAPES, Canvas

COUNTS = ("one", "two", "three", "four")
# Where the things stand, for each count, before each is nudged a little.
PLACES = {
    "one": [(0.5, 0.5)],
    "two": [(0.27, 0.5), (0.73, 0.5)],
    "three": [(0.5, 0.27), (0.27, 0.72), (0.73, 0.72)],
    "four": [(0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73)],
}
NUDGES = 5  # steps to each side

SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
PATTERN_WORDS = {"plain": ("",), "striped": ("striped",), "dotted": ("dotted", "spotted")}
SHAPE_WORDS = {"circle": ("circle", "disc"), "cross": ("cross", "plus sign")}


def plural(noun: str) -> str:
    """The plural of a shape's name."""
    return noun + ("es" if noun.endswith("ss") else "s")


class Attributes(Family):
    name = "attributes"
    slots = {
        "count": COUNTS,
        "size": ("small", "large"),
        "colour": tuple(PALETTE),
        "pattern": ("plain", "striped", "dotted"),
        "shape": SHAPES,
    }
    held_out = HELD_OUT_PAIRS
    flaws = ("one thing missing", "one thing of another shape", "one thing of another colour")

    def is_held_out(self, slots: Slots) -> bool:
        return (slots["colour"], slots["shape"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        # Half of the scenes show a single thing and half of them are plain: the commonest captions.
        slots["count"] = "one" if rng.random() < 0.5 else slots["count"]
        slots["pattern"] = "plain" if rng.random() < 0.5 else slots["pattern"]
        # A pattern on several small things could not be seen.
        if slots["pattern"] != "plain" and slots["count"] != "one":
            slots["size"] = "large"
        places = len(PLACES[slots["count"]])
        nudges = [rng.randint(-NUDGES, NUDGES) for _ in range(2 * places)]
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        noun_words = SHAPE_WORDS.get(s["shape"], (s["shape"],))
        phrasings = []
        for size in SIZE_WORDS[s["size"]]:
            for pattern in PATTERN_WORDS[s["pattern"]]:
                for noun in noun_words:
                    words = f"{size} {pattern} {s['colour']} "
                    if s["count"] == "one":
                        phrasings += [f"a {words}{noun}", f"one {words}{noun}"]
                    else:
                        phrasings.append(f"{s['count']} {words}{plural(noun)}")
                    if s["count"] == "two":
                        phrasings.append(f"a pair of {words}{plural(noun)}")
        return [" ".join(phrase.split()) for phrase in phrasings]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        return self._paint(scene, size)

    def flawed(self, scene: Scene, flaw: str, size: int, rng: random.Random) -> np.ndarray | None:
        places = len(PLACES[scene.slots["count"]])
        odd = rng.randrange(places)
        if flaw == "one thing missing":
            return self._paint(scene, size, odd, None) if places > 1 else None
        if places < 3:  # two that differ are a picture of the family "objects"
            return None
        slot = flaw.split()[-1]
        others = [value for value in self.slots[slot] if value != scene.slots[slot]]
        return self._paint(scene, size, odd, {slot: rng.choice(others)})

    def _paint(
        self, scene: Scene, size: int, odd: int | None = None, look: Slots | None = None
    ) -> np.ndarray:
        """The picture. odd: which thing looks otherwise, if any. look: its own slots; None leaves it out."""
        background, *nudges = scene.layout
        s = scene.slots
        single = s["count"] == "one"
        r = {"small": 0.26 if single else 0.12, "large": 0.41 if single else 0.2}[s["size"]]
        # A single thing has room to wander, the smaller the more; several stay near their places.
        reach = (0.48 - r if single else 0.22 - r) / NUDGES
        canvas = Canvas(size, BACKGROUNDS[background])
        for k, (x, y) in enumerate(PLACES[s["count"]]):
            x, y = x + reach * nudges[2 * k], y + reach * nudges[2 * k + 1]
            if k == odd and look is None:
                continue
            mine = {**s, **look} if k == odd else s
            canvas.shape(mine["shape"], x, y, r, PALETTE[mine["colour"]], mine["pattern"])
        return canvas.picture()


FAMILY = Attributes()
