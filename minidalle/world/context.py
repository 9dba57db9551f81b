"""Context: something under a sky that the caption only hints at.

The paper's capability: inferring contextual details. "At night" brings the moon, the stars and lit windows,
"in winter" snow on every roof, though no caption names them; what floats stands on water.
"""

import random
from copy import copy

import numpy as np

from .base import Family, Scene, Slots
from .canvas import Canvas, Colour, Place, arc, mix, outline, rectangle

SUBJECT_WORDS = {
    "house": ("house", "cottage"),
    "tree": ("tree",),
    "boat": ("boat", "sailing boat"),
    "car": ("car",),
    "tent": ("tent",),
    "castle": ("castle", "fortress"),
    "windmill": ("windmill",),
}
SETTING_WORDS = {
    "sunshine": ("on a sunny day", "in fine weather"),
    "night": ("at night", "in the middle of the night"),
    "rain": ("in the rain", "on a rainy day"),
    "winter": ("in winter", "on a winter day"),
    "sunset": ("at sunset", "at the end of the day"),
    "fog": ("in the fog", "on a foggy morning"),
    "storm": ("in a thunderstorm", "on a stormy day"),
}
# Sky, ground and water; then the light that falls on the subject and how strong it is.
SKIES: dict[str, tuple[Colour, Colour, Colour, Colour, float]] = {
    "sunshine": ((140, 205, 245), (120, 185, 80), (50, 125, 205), (255, 255, 255), 0.0),
    "night": ((18, 26, 74), (30, 58, 56), (14, 50, 92), (14, 20, 60), 0.5),
    "rain": ((148, 160, 174), (104, 140, 110), (84, 118, 146), (120, 135, 155), 0.3),
    "winter": ((150, 186, 216), (244, 248, 252), (120, 172, 204), (220, 235, 250), 0.1),
    "sunset": ((252, 160, 84), (104, 66, 74), (150, 70, 96), (70, 20, 50), 0.6),
    "fog": ((184, 191, 197), (160, 170, 168), (156, 168, 178), (196, 202, 206), 0.42),
    "storm": ((66, 68, 88), (60, 78, 66), (44, 64, 92), (40, 42, 62), 0.4),
}
TONES: tuple[Colour, ...] = ((206, 76, 60), (232, 184, 84), (222, 214, 198), (110, 150, 200))
LEAVES: tuple[Colour, ...] = ((64, 140, 62), (104, 160, 50), (36, 110, 78), (140, 176, 70))
WOOD, DARK, GLASS, LAMP = (110, 74, 48), (64, 50, 56), (176, 216, 236), (255, 226, 100)
SNOW, WHITE = (255, 255, 255), (250, 250, 250)
NUDGES, DRIFTS = 5, 4


class Context(Family):
    """Each subject is kept out of one setting, each setting out of one subject's pictures."""

    name = "context"
    slots = {"subject": tuple(SUBJECT_WORDS), "setting": tuple(SETTING_WORDS)}
    flaws = ("no subject",)
    held_out = (
        ("house", "storm"),
        ("tree", "night"),
        ("boat", "winter"),
        ("car", "sunset"),
        ("tent", "rain"),
        ("castle", "fog"),
        ("windmill", "sunshine"),
    )

    def is_held_out(self, slots: Slots) -> bool:
        return (slots["subject"], slots["setting"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        across, drift = rng.randint(-NUDGES, NUDGES), rng.randint(-DRIFTS, DRIFTS)
        return Scene(self.name, slots, (across, drift, rng.randrange(len(TONES))))

    def captions(self, scene: Scene) -> list[str]:
        return [
            phrase.format(noun, where)
            for phrase in ("a {} {}", "a picture of a {} {}")
            for noun in SUBJECT_WORDS[scene.slots["subject"]]
            for where in SETTING_WORDS[scene.slots["setting"]]
        ]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        return self._paint(scene, size)

    def flawed(self, scene: Scene, flaw: str, size: int, rng: random.Random) -> np.ndarray:
        return self._paint(scene, size, empty=True)

    def _paint(self, scene: Scene, size: int, empty: bool = False) -> np.ndarray:
        across, drift, tone = scene.layout
        subject, setting = scene.slots["subject"], scene.slots["setting"]
        air, ground, water, tint, share = SKIES[setting]
        canvas = Canvas(size, air)
        sky = Place(canvas, 0, 0, 1)
        BEHIND[setting](sky, 0.022 * drift)
        canvas.polygon(rectangle(0, 0.7, 1, 1), water if subject == "boat" else ground)
        place = Place(canvas, 0.5 + 0.018 * across, 0.57, 0.31, tint=tint, share=share)
        glass = LAMP if setting in ("night", "storm") else GLASS
        tones = LEAVES if subject == "tree" else TONES
        if not empty:
            DRAWINGS[subject](place, tones[tone], glass, setting == "winter")
        BEFORE.get(setting, nothing)(sky, 0.022 * drift)
        return canvas.picture()


# ------------------------------------------------------------------------- subjects, standing on y = 1


def window(place: Place, glass: Colour) -> Place:
    """The pen for a window: a lamp behind it outshines the light outside."""
    pen = copy(place)
    pen.share = 0.0 if glass == LAMP else place.share
    return pen


def house(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    place.polygon(rectangle(-0.8, -0.1, 0.8, 1), tone)
    place.polygon([(-1.05, 0), (0, -1), (1.05, 0)], DARK)
    if snow:
        place.polygon([(-1.1, 0), (0, -1.1), (1.1, 0), (0.75, 0), (0, -0.65), (-0.75, 0)], SNOW)
    place.polygon(rectangle(-0.55, 0.35, -0.1, 1), WOOD)
    window(place, glass).polygon(rectangle(0.15, 0.25, 0.6, 0.65), glass)


def tree(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    trunk = mix(WOOD, tone, 0.3)
    place.polygon(rectangle(-0.14, 0, 0.14, 1), trunk)
    if not snow:
        for x, y, r in ((-0.5, -0.1, 0.5), (0.5, -0.1, 0.5), (0, -0.5, 0.6)):
            place.oval(x, y, r, r, tone)
        return
    for x, y, root in ((-0.65, -0.5, 0.35), (0.65, -0.5, 0.35), (0, -0.95, 0), (-0.4, -0.9, -0.1)):
        place.line([(0, root), (x, y)], trunk, 0.15)
        place.oval(x, y - 0.07, 0.24, 0.12, SNOW)
    place.line([(0, -0.1), (0.45, -0.9)], trunk, 0.15)
    place.oval(0.45, -0.95, 0.24, 0.12, SNOW)


def boat(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    place.line([(0, -1), (0, 0.6)], WOOD, 0.1)
    place.polygon([(0.1, -0.95), (0.85, 0.3), (0.1, 0.3)], WHITE)
    place.polygon([(-0.1, -0.7), (-0.7, 0.3), (-0.1, 0.3)], mix(WHITE, tone, 0.4))
    place.polygon([(-1.05, 0.45), (1.05, 0.45), (0.65, 1), (-0.65, 1)], tone)
    if snow:
        place.polygon(rectangle(-1.05, 0.36, 1.05, 0.54), SNOW)
    window(place, glass).oval(0, 0.72, 0.14, 0.14, glass)


def car(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    place.polygon([(-0.75, 0.3), (-0.5, -0.2), (0.35, -0.2), (0.7, 0.3)], tone)
    place.polygon([(-0.55, 0.27), (-0.4, -0.06), (-0.1, -0.06), (-0.1, 0.27)], GLASS)
    place.polygon([(0.03, 0.27), (0.03, -0.06), (0.27, -0.06), (0.48, 0.27)], GLASS)
    place.polygon(rectangle(-1.1, 0.27, 1.15, 0.75), tone)
    if snow:
        place.polygon(rectangle(-0.6, -0.34, 0.45, -0.14), SNOW)
        place.polygon(rectangle(0.6, 0.2, 1.15, 0.36), SNOW)
    if glass == LAMP:
        window(place, glass).oval(1.1, 0.45, 0.16, 0.14, glass)
    for x in (-0.6, 0.6):
        place.oval(x, 0.75, 0.27, 0.27, (30, 30, 34))
        place.oval(x, 0.75, 0.1, 0.1, (190, 190, 194))


def tent(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    place.polygon([(-1.1, 1), (0, -0.6), (1.1, 1)], tone)
    if snow:
        place.polygon(
            [(-0.75, 0.55), (0, -0.72), (0.75, 0.55), (0.5, 0.4), (0, -0.3), (-0.5, 0.4)], SNOW
        )
    window(place, glass).polygon(
        [(-0.38, 1), (0, 0.05), (0.38, 1)], glass if glass == LAMP else DARK
    )


def castle(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    stone = mix(tone, (150, 150, 158), 0.55)
    place.polygon(rectangle(-0.7, 0.05, 0.7, 1), mix(stone, (0, 0, 0), 0.15))
    for x in (-0.75, 0.75):
        place.polygon(rectangle(x - 0.33, -0.5, x + 0.33, 1), stone)
        for k in (-1, 0, 1):
            place.polygon(rectangle(x + k * 0.26 - 0.09, -0.72, x + k * 0.26 + 0.09, -0.45), stone)
        if snow:
            place.polygon(rectangle(x - 0.35, -0.78, x + 0.35, -0.55), SNOW)
        window(place, glass).polygon(
            rectangle(x - 0.1, -0.2, x + 0.1, 0.2), glass if glass == LAMP else DARK
        )
    if snow:
        place.polygon(rectangle(-0.42, -0.08, 0.42, 0.12), SNOW)
    place.polygon([*arc(0, 0.65, 0.25, 0.25, -90, 90), (0.25, 1), (-0.25, 1)], DARK)


def windmill(place: Place, tone: Colour, glass: Colour, snow: bool) -> None:
    place.polygon([(-0.28, -0.4), (0.28, -0.4), (0.5, 1), (-0.5, 1)], tone)
    place.polygon([(-0.36, -0.35), (0, -0.75), (0.36, -0.35)], SNOW if snow else DARK)
    window(place, glass).polygon(
        rectangle(-0.13, 0.3, 0.13, 0.62), glass if glass == LAMP else DARK
    )
    for u, v in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        place.line([(0, -0.3), (0.72 * u, -0.3 + 0.72 * v)], WHITE, 0.2)
    place.oval(0, -0.3, 0.1, 0.1, DARK)


DRAWINGS = {
    "house": house,
    "tree": tree,
    "boat": boat,
    "car": car,
    "tent": tent,
    "castle": castle,
    "windmill": windmill,
}


# ------------------------------------------------- what the setting adds, behind the subject and before it


def nothing(sky: Place, drift: float) -> None:
    """A setting that adds nothing."""


def sun(sky: Place, drift: float) -> None:
    sky.oval(0.2 + drift, 0.17, 0.1, 0.1, (255, 222, 70))
    cloud(sky, 0.8 - drift, 0.16, 0.12, (250, 252, 255))


def cloud(sky: Place, x: float, y: float, r: float, fill: Colour) -> None:
    for dx, ry in ((-0.9, 0.5), (0.9, 0.5), (0, 0.75)):
        sky.oval(x + r * dx, y, r, r * ry, fill)


def stars(sky: Place, drift: float) -> None:
    for x, y in ((0.08, 0.1), (0.3, 0.08), (0.5, 0.13), (0.95, 0.36), (0.07, 0.42), (0.62, 0.05)):
        sky.polygon(outline("star", x + drift / 2, y, 0.032), (255, 250, 215))
    sky.oval(0.83 + drift, 0.16, 0.1, 0.1, (250, 240, 190))
    sky.oval(0.785 + drift, 0.14, 0.085, 0.085, SKIES["night"][0])


def clouds(sky: Place, drift: float) -> None:
    for x, r in ((0.2, 0.15), (0.52, 0.18), (0.85, 0.15)):
        cloud(sky, x + drift, 0.1, r, (104, 114, 132))


def drops(sky: Place, drift: float) -> None:
    for k, x in enumerate((0.08, 0.28, 0.48, 0.68, 0.88)):
        for y in (0.3, 0.54, 0.78):
            low = y + (0.1 if k % 2 else 0)
            sky.line([(x + drift + 0.03, low), (x + drift, low + 0.1)], (40, 96, 190), 0.018)


def flakes(sky: Place, drift: float) -> None:
    for x, y in ((0.08, 0.2), (0.22, 0.44), (0.3, 0.1), (0.52, 0.06), (0.7, 0.2), (0.92, 0.12)):
        sky.oval(x + drift / 2, y, 0.026, 0.026, SNOW)
    for x, y in ((0.06, 0.6), (0.9, 0.42), (0.82, 0.62), (0.45, 0.24)):
        sky.oval(x + drift / 2, y, 0.026, 0.026, SNOW)


def low_sun(sky: Place, drift: float) -> None:
    sky.polygon(rectangle(0, 0, 1, 0.2), (190, 84, 110))
    sky.polygon(rectangle(0, 0.2, 1, 0.4), (236, 118, 88))
    sky.oval(0.86 + drift, 0.66, 0.2, 0.2, (255, 230, 120))


def bands(sky: Place, drift: float) -> None:
    for x, y in ((0.28, 0.16), (0.75, 0.29), (0.3, 0.6), (0.68, 0.82)):
        sky.oval(x + drift, y, 0.36, 0.045, (226, 230, 232))


def lightning(sky: Place, drift: float) -> None:
    for x, r in ((0.15, 0.17), (0.5, 0.2), (0.88, 0.17)):
        cloud(sky, x, 0.08, r, (36, 38, 52))
    x = 0.14 + drift
    bolt = [
        (0.08, 0.14),
        (-0.06, 0.4),
        (0.03, 0.4),
        (-0.04, 0.66),
        (0.14, 0.32),
        (0.05, 0.32),
        (0.16, 0.14),
    ]
    sky.polygon([(x + u, v) for u, v in bolt], (255, 232, 60))


BEHIND = {
    "sunshine": sun,
    "night": stars,
    "rain": clouds,
    "winter": nothing,
    "sunset": low_sun,
    "fog": nothing,
    "storm": lightning,
}
BEFORE = {"rain": drops, "winter": flakes, "fog": bands}

FAMILY = Context()
