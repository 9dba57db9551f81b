"""Translation: a thing in the upper half, and below it the exact same thing, changed as the caption says.

The paper's capability: zero-shot image-to-image translation (figure 14). The top half of the rows of pixels,
so a whole number of token rows, knows nothing of the change: given as an image prompt, it leaves the
bottom half to the caption.
"""

import random
from collections.abc import Callable

import numpy as np

from .base import Family, Scene, Slots
from .canvas import PALETTE, Canvas, Colour, Place, arc, mix, outline, rectangle
from .creatures import an

SUBJECT_WORDS = {
    "cat": ("cat",),
    "house": ("house",),
    "cup": ("cup", "mug"),
    "car": ("car",),
    "umbrella": ("umbrella",),
    "flower": ("flower",),
    "boat": ("boat",),
}
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
CHANGE_WORDS = {
    "sketch": ("as a sketch", "as a line drawing"),
    "upside down": ("upside down", "turned over"),
    "recoloured": ("in {}", "but {}"),
    "night": ("at night", "in the dark"),
    "tiny": ("but tiny", "but much smaller"),
    "twice": ("twice", "two times"),
    "framed": ("in a frame", "in a picture frame"),
}
PHRASINGS = (
    "the exact same {colour} {noun} on the top {change} on the bottom",
    "{a_colour} {noun} on the top and the same {noun} {change} on the bottom",
    "{a_colour} {noun} above and the same one {change} below",
)
BACKGROUNDS: tuple[Colour, ...] = ((222, 232, 240), (240, 232, 214), (220, 236, 218))
PAPER, NIGHT, FRAME = (252, 252, 250), (46, 56, 124), (120, 78, 44)
DARK, WHITE, PALE, STEM = (44, 36, 46), (252, 252, 252), (210, 228, 240), (66, 130, 60)
RADIUS = 0.19
SHIFTS, LIFTS = 6, 2


class Translation(Family):
    """The new colour is there only where the change is "recoloured"."""

    name = "translation"
    slots = {
        "subject": tuple(SUBJECT_WORDS),
        "colour": COLOURS,
        "change": tuple(CHANGE_WORDS),
        "new colour": COLOURS,
    }
    held_out = (
        ("cat", "twice"),
        ("house", "sketch"),
        ("cup", "night"),
        ("car", "recoloured"),
        ("umbrella", "tiny"),
        ("flower", "framed"),
        ("boat", "upside down"),
    )

    def is_held_out(self, slots: Slots) -> bool:
        return (slots["subject"], slots["change"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(self.slots[slot]) for slot in ("subject", "colour", "change")}
        if slots["change"] == "recoloured":
            slots["new colour"] = rng.choice([each for each in COLOURS if each != slots["colour"]])
        shift, lift = rng.randint(-SHIFTS, SHIFTS), rng.randint(-LIFTS, LIFTS)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), shift, lift))

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        return [
            phrasing.format(colour=s["colour"], a_colour=an(s["colour"]), noun=noun, change=change)
            for phrasing in PHRASINGS
            for noun in SUBJECT_WORDS[s["subject"]]
            for change in (words.format(s.get("new colour")) for words in CHANGE_WORDS[s["change"]])
        ]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        background, shift, lift = scene.layout
        s = scene.slots
        subject, fill, plain = DRAWINGS[s["subject"]], PALETTE[s["colour"]], BACKGROUNDS[background]
        x, y = 0.5 + 0.028 * shift, 0.25 + 0.01 * lift
        canvas = Canvas(size, plain)
        subject(Place(canvas, x, y, RADIUS), fill)
        canvas.polygon(rectangle(0, 0.5, 1, 1), plain)
        fill = PALETTE[s["new colour"]] if s["change"] == "recoloured" else fill
        CHANGES[s["change"]](canvas, subject, x, y + 0.5, fill)
        canvas.polygon(rectangle(0, 0.5, 1, 0.51), (130, 132, 140))
        return canvas.picture()


# ---------------------------------------------------------------------------------- subjects, in a unit box

Drawing = Callable[[Place, Colour], None]


def cat(place: Place, fill: Colour) -> None:
    place.line([(0.4, 0.85), (0.85, 0.75), (0.95, 0.2)], fill, 0.24)
    place.oval(0, 0.52, 0.54, 0.48, fill)
    for side in (-1, 1):
        place.polygon([(side * 0.66, -1), (side * 0.68, -0.3), (side * 0.1, -0.7)], fill)
    place.oval(0, -0.3, 0.72, 0.52, fill)
    for x in (-0.28, 0.28):
        place.oval(x, -0.35, 0.13, 0.16, WHITE)
        place.oval(x, -0.33, 0.07, 0.11, DARK)
    place.polygon([(-0.1, -0.1), (0.1, -0.1), (0, 0.03)], DARK)


def house(place: Place, fill: Colour) -> None:
    place.polygon(rectangle(-0.75, -0.15, 0.75, 0.95), fill)
    place.polygon([(-1, -0.1), (0, -0.98), (1, -0.1)], DARK)
    place.polygon(rectangle(-0.5, 0.3, -0.1, 0.95), DARK)
    place.polygon(rectangle(0.15, 0.2, 0.52, 0.55), WHITE)


def cup(place: Place, fill: Colour) -> None:
    place.line(arc(0.55, 0.25, 0.42, 0.36, 0, 180), fill, 0.2)
    place.polygon([(-0.75, -0.3), (0.6, -0.3), (0.45, 0.95), (-0.6, 0.95)], fill)
    place.oval(-0.075, -0.3, 0.675, 0.16, mix(fill, DARK, 0.6))
    for x in (-0.35, 0.2):
        place.line([(x, -0.6), (x + 0.12, -0.78), (x, -0.96)], (150, 154, 164), 0.12)


def car(place: Place, fill: Colour) -> None:
    place.polygon([(-0.7, 0), (-0.45, -0.6), (0.3, -0.6), (0.65, 0)], fill)
    place.polygon([(-0.48, 0), (-0.34, -0.44), (-0.1, -0.44), (-0.1, 0)], PALE)
    place.polygon([(0.04, 0), (0.04, -0.44), (0.22, -0.44), (0.44, 0)], PALE)
    place.polygon(rectangle(-1.05, 0, 1.05, 0.5), fill)
    for x in (-0.55, 0.55):
        place.oval(x, 0.5, 0.3, 0.3, DARK)
        place.oval(x, 0.5, 0.11, 0.11, WHITE)


def umbrella(place: Place, fill: Colour) -> None:
    place.line([(0, -0.95), (0, 0.7), (0.12, 0.88), (0.3, 0.8), (0.34, 0.62)], DARK, 0.13)
    place.polygon(
        [
            *arc(0, 0, 1, 0.85, -90, 90),
            (0.67, -0.15),
            (0.33, 0),
            (0, -0.15),
            (-0.33, 0),
            (-0.67, -0.15),
        ],
        fill,
    )
    place.polygon([*arc(0, 0, 0.33, 0.85, -90, 90), (0, -0.15)], mix(fill, WHITE, 0.45))


def flower(place: Place, fill: Colour) -> None:
    place.line([(0, -0.3), (0, 0.95)], STEM, 0.14)
    for side in (-1, 1):
        place.oval(side * 0.38, 0.6, 0.36, 0.15, STEM, -side * 30)
    for u, v in ((0, -0.42), (0.4, -0.13), (0.25, 0.34), (-0.25, 0.34), (-0.4, -0.13)):
        place.oval(u, v - 0.34, 0.28, 0.28, fill)
    place.oval(0, -0.34, 0.22, 0.22, DARK)


def boat(place: Place, fill: Colour) -> None:
    place.line([(0, -0.95), (0, 0.4)], DARK, 0.12)
    place.polygon([(0.12, -0.9), (0.8, 0.25), (0.12, 0.25)], WHITE)
    place.polygon([(-0.12, -0.65), (-0.65, 0.25), (-0.12, 0.25)], WHITE)
    place.polygon([(-1, 0.4), (1, 0.4), (0.6, 0.95), (-0.6, 0.95)], fill)


DRAWINGS: dict[str, Drawing] = {
    "cat": cat,
    "house": house,
    "cup": cup,
    "car": car,
    "umbrella": umbrella,
    "flower": flower,
    "boat": boat,
}


# ------------------------------------------------------------------------- changes, all below the middle row


def sketch(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    canvas.polygon(rectangle(0, 0.5, 1, 1), PAPER)
    subject(Place(canvas, x, y, RADIUS, paper=PAPER), fill)


def upside_down(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    subject(Place(canvas, x, y, RADIUS, flip=True), fill)


def recoloured(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    subject(Place(canvas, x, y, RADIUS), fill)


def night(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    canvas.polygon(rectangle(0, 0.5, 1, 1), NIGHT)
    for u, v in ((0.05, 0.58), (0.06, 0.85), (0.23, 0.56), (0.77, 0.57), (0.95, 0.85), (0.93, 0.7)):
        canvas.polygon(outline("star", u, v, 0.03), (255, 248, 200))
    moon = 0.12 if x > 0.5 else 0.88
    sky = Place(canvas, 0, 0, 1)
    sky.oval(moon, 0.64, 0.08, 0.08, (250, 236, 170))
    sky.oval(moon - 0.04, 0.62, 0.065, 0.065, NIGHT)
    subject(Place(canvas, x, y, RADIUS, tint=NIGHT, share=0.12), fill)


def tiny(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    subject(Place(canvas, x, y + 0.08, RADIUS / 2), fill)


def twice(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    for side in (-1, 1):
        subject(Place(canvas, 0.5 + (x - 0.5) / 6 + 0.24 * side, y, RADIUS), fill)


def framed(canvas: Canvas, subject: Drawing, x: float, y: float, fill: Colour) -> None:
    canvas.polygon(rectangle(x - 0.31, 0.53, x + 0.31, 0.99), FRAME)
    canvas.polygon(rectangle(x - 0.25, 0.58, x + 0.25, 0.94), PALE)
    subject(Place(canvas, x, 0.76, 0.16), fill)


CHANGES = {
    "sketch": sketch,
    "upside down": upside_down,
    "recoloured": recoloured,
    "night": night,
    "tiny": tiny,
    "twice": twice,
    "framed": framed,
}

FAMILY = Translation()
