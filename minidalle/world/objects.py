"""Objects: two things in relation to each other, or three cubes in a stack.

The paper's capability: several objects at once, their attributes and where they are.
"""

import random

import numpy as np

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, HELD_OUT_PAIRS, PALETTE, SHAPES, Canvas, mix, rectangle

COLOURS = tuple(PALETTE)
NUDGES = 4
RADIUS = {"small": 0.11, "medium": 0.155, "large": 0.205}
SIZE_WORDS = {"small": ("small", "little"), "medium": ("",), "large": ("large", "big")}

# (upper, lower): colours of cubes that lie directly on each other in no training picture.
HELD_OUT_STACKS = (
    ("red", "green"),
    ("orange", "blue"),
    ("yellow", "purple"),
    ("green", "pink"),
    ("blue", "black"),
    ("purple", "orange"),
    ("pink", "yellow"),
    ("black", "red"),
)


class Objects(Family):
    """Slots 1 and 2 are the upper and lower thing, or the left and right one, as drawn.

    "A above B" and "B below A" are two captions of one scene. Scenes of pairs have the first seven
    slots, stacks have the arrangement and the last three.
    """

    name = "objects"
    slots = {
        "arrangement": ("vertical", "horizontal", "stack"),
        "size 1": tuple(RADIUS),
        "colour 1": COLOURS,
        "shape 1": SHAPES,
        "size 2": tuple(RADIUS),
        "colour 2": COLOURS,
        "shape 2": SHAPES,
        "top": COLOURS,
        "middle": COLOURS,
        "bottom": COLOURS,
    }
    held_out = HELD_OUT_PAIRS + HELD_OUT_STACKS

    def is_held_out(self, slots: Slots) -> bool:
        if slots["arrangement"] == "stack":
            upper, middle, lower = slots["top"], slots["middle"], slots["bottom"]
            return (upper, middle) in HELD_OUT_STACKS or (middle, lower) in HELD_OUT_STACKS
        things = [(slots[f"colour {k}"], slots[f"shape {k}"]) for k in (1, 2)]
        return any(thing in HELD_OUT_PAIRS for thing in things)

    def sample(self, rng: random.Random) -> Scene:
        arrangement = rng.choice(self.slots["arrangement"])
        if arrangement == "stack":
            names = ("top", "middle", "bottom")
            slots = dict(zip(names, rng.sample(COLOURS, 3), strict=True))
        else:
            names = [name for name in self.slots if name[-1] in "12"]
            slots = {name: rng.choice(self.slots[name]) for name in names}
        nudges = [rng.randint(-NUDGES, NUDGES) for _ in range(2 if arrangement == "stack" else 4)]
        layout = (rng.randrange(len(BACKGROUNDS)), *nudges)
        return Scene(self.name, {"arrangement": arrangement, **slots}, layout)

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        if s["arrangement"] == "stack":
            a, b, c = s["top"], s["middle"], s["bottom"]
            return [
                f"a stack of three cubes: {a} on top of {b} on top of {c}",
                f"three stacked cubes: {a} over {b} over {c}",
                f"a tower of three cubes: {c} under {b} under {a}",
            ]
        names = [
            [
                f"a {size} {s[f'colour {k}']} {s[f'shape {k}']}"
                for size in SIZE_WORDS[s[f"size {k}"]]
            ]
            for k in (1, 2)
        ]
        if s["arrangement"] == "vertical":
            patterns = ("{a} above {b}", "{a} over {b}", "{b} below {a}", "{b} under {a}")
        else:
            patterns = ("{a} to the left of {b}", "{b} to the right of {a}", "{a} left of {b}")
        phrases = [p.format(a=a, b=b) for p in patterns for a in names[0] for b in names[1]]
        return [article(" ".join(phrase.split())) for phrase in phrases]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        background, *nudges = scene.layout
        s = scene.slots
        canvas = Canvas(size, BACKGROUNDS[background])
        if s["arrangement"] == "stack":
            draw_stack(canvas, [s["bottom"], s["middle"], s["top"]], nudges)
            return canvas.picture()
        for k in (1, 2):
            across = 0.5 + 0.04 * nudges[2 * k - 2]
            along = (0.26 if k == 1 else 0.74) + 0.006 * nudges[2 * k - 1]
            x, y = (across, along) if s["arrangement"] == "vertical" else (along, across)
            fill = PALETTE[s[f"colour {k}"]]
            canvas.shape(s[f"shape {k}"], x, y, RADIUS[s[f"size {k}"]], fill)
        return canvas.picture()


def article(phrase: str) -> str:
    """ "a orange heart" → "an orange heart"."""
    return phrase.replace("a orange", "an orange")


def draw_stack(canvas: Canvas, colours: list[str], nudges: list[int]) -> None:
    """Three cubes seen from above their right edge; the lowest is drawn first."""
    side, depth = 0.26, 0.09
    left, bottom = 0.37 - depth / 2 + 0.04 * nudges[0], 0.94 + 0.006 * nudges[1]
    right = left + side
    for k, name in enumerate(colours):
        fill, low = PALETTE[name], bottom - k * side
        top = low - side
        canvas.polygon(rectangle(left, top, right, low), fill)
        lid = [(left, top), (left + depth, top - depth), (right + depth, top - depth), (right, top)]
        canvas.polygon(lid, mix(fill, (255, 255, 255), 0.45))
        flank = [
            (right, top),
            (right + depth, top - depth),
            (right + depth, low - depth),
            (right, low),
        ]
        canvas.polygon(flank, mix(fill, (0, 0, 0), 0.35))


FAMILY = Objects()
