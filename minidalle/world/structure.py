"""Structure: a fruit or vegetable from outside, cut in two, or with its skin so near that it fills a lens.

The paper's capability: internal and external structure, cross-sections and macro close-ups.
"""

import random

import numpy as np

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, PALETTE, Canvas, ellipse, mix, rectangle
from .fruits import FRUITS, skin

VIEWS = ("outside", "cross-section", "close-up")
COLOURS = ("none", "red", "yellow", "green", "blue", "purple", "pink")
NUDGES = 4

WHOLE_WORDS = {
    "outside": ("the outside of {a}", "{a} seen from outside"),
    "cross-section": ("a cross-section of {a}", "the inside of {a}", "{a} cut in half"),
}
SKIN_WORDS = (
    "a close-up of {name} skin",
    "{name} skin seen up close",
    "a macro photo of {name} skin",
)
TABLE_WORDS = ("{view} on a {colour} table", "{view} on a {colour} tablecloth")
LENS_WORDS = ("{view} under a {colour} magnifying glass", "{view} through a {colour} lens")


class Structure(Family):
    """Slot "colour" is that of the table, or of the magnifying glass in a close-up.

    Views of fruits are never held out: nobody can draw the inside of what they have only seen outside.
    """

    name = "structure"
    slots = {"view": VIEWS, "fruit": tuple(FRUITS), "colour": COLOURS}
    held_out = (
        ("watermelon", "blue"),
        ("orange", "green"),
        ("kiwi", "red"),
        ("strawberry", "yellow"),
        ("apple", "purple"),
        ("avocado", "pink"),
        ("dragon fruit", "green"),
        ("pineapple", "blue"),
        ("pumpkin", "purple"),
        ("onion", "none"),
    )

    def is_held_out(self, slots: Slots) -> bool:
        return (slots["fruit"], slots["colour"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        # A third has neither table nor frame: the shortest captions.
        slots["colour"] = "none" if rng.random() < 0.25 else slots["colour"]
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        near = s["view"] == "close-up"
        a = f"{'an' if s['fruit'][0] in 'aeiou' else 'a'} {s['fruit']}"
        views = [
            words.format(a=a, name=s["fruit"])
            for words in (SKIN_WORDS if near else WHOLE_WORDS[s["view"]])
        ]
        if s["colour"] == "none":
            return views
        places = LENS_WORDS if near else TABLE_WORDS
        return [place.format(view=v, colour=s["colour"]) for v in views for place in places]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        background, dx, dy = scene.layout
        s = scene.slots
        canvas = Canvas(size, BACKGROUNDS[background])
        x, y = 0.5 + 0.014 * dx, 0.5 + 0.01 * dy
        if s["view"] == "close-up":
            draw_near(canvas, s["fruit"], s["colour"], x, y)
            return canvas.picture()
        if s["colour"] != "none":
            table = mix(PALETTE[s["colour"]], (255, 255, 255), 0.15)
            canvas.polygon(rectangle(0, 0.64, 1, 1), table)
        whole, cut, _ = FRUITS[s["fruit"]]
        (whole if s["view"] == "outside" else cut)(canvas, x, y)
        return canvas.picture()


def draw_near(canvas: Canvas, fruit: str, colour: str, x: float, y: float) -> None:
    """The skin as a square photograph, or in a magnifying glass whose frame has a colour."""
    if colour == "none":
        canvas.filled([rectangle(x - 0.43, y - 0.43, x + 0.43, y + 0.43)], skin(fruit, canvas.size))
        return
    x, y, frame = x - 0.03, y - 0.04, PALETTE[colour]
    canvas.line([(x + 0.25, y + 0.25), (x + 0.42, y + 0.42)], frame, 0.1)
    canvas.polygon(ellipse(x, y, 0.4, 0.4), frame)
    canvas.polygon(ellipse(x, y, 0.33, 0.33), (255, 255, 255))
    canvas.filled([ellipse(x, y, 0.305, 0.305)], skin(fruit, canvas.size))


FAMILY = Structure()
