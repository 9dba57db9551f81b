"""Time: a clock with its hour, a machine of its decade, a tree in its season.

The paper's capability: temporal knowledge. Each may be told with a colour; told without one, it has the
colour of its material.
"""

import math
import random

import numpy as np

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, PALETTE, Canvas, Colour, Place, arc, mix, rectangle
from .creatures import an

HOURS = tuple("one two three four five six seven eight nine ten eleven twelve".split())
DECADE_WORDS = {
    "1920s": ("from the 1920s", "of the 1920s"),
    "1950s": ("from the 1950s", "from the fifties"),
    "1980s": ("from the 1980s", "from the eighties"),
    "2020s": ("from the 2020s", "from today"),
}
# "A tree in winter" belongs to the family of contexts.
SEASON_WORDS = {
    "spring": ("in spring", "in may"),
    "summer": ("in summer", "in july"),
    "autumn": ("in autumn", "in october"),
    "winter": ("in deep winter", "in january"),
}
MACHINE_WORDS = {
    "telephone": ("telephone", "phone"),
    "car": ("car", "automobile"),
    "music player": ("music player",),
}
COLOURS = tuple(PALETTE)
NUDGES = 4
DARK, WHITE, GREY, GLASS = (44, 42, 48), (252, 252, 252), (150, 152, 160), (178, 214, 232)
WOOD, GOLD = (150, 106, 66), (226, 186, 90)
TRUNK, SNOW = (112, 76, 50), (196, 216, 236)


class Time(Family):
    """One of hour, decade and season is there, as the thing asks for; the colour in two scenes of three."""

    name = "time"
    slots = {
        "thing": ("clock", *MACHINE_WORDS, "tree"),
        "hour": HOURS,
        "decade": tuple(DECADE_WORDS),
        "season": tuple(SEASON_WORDS),
        "colour": COLOURS,
    }
    held_out = (
        *((hour, COLOURS[5 * k % len(COLOURS)]) for k, hour in enumerate(HOURS)),
        ("1920s", "green"),
        ("1950s", "blue"),
        ("1980s", "orange"),
        ("2020s", "red"),
        ("spring", "purple"),
        ("summer", "black"),
        ("autumn", "yellow"),
        ("winter", "pink"),
    )

    flaws = ("no hour hand",)

    def is_held_out(self, slots: Slots) -> bool:
        return (when(slots), slots.get("colour")) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        kind = rng.choice(("hour", "decade", "season"))
        things = {"hour": ("clock",), "decade": tuple(MACHINE_WORDS), "season": ("tree",)}[kind]
        slots = {"thing": rng.choice(things), kind: rng.choice(self.slots[kind])}
        if rng.random() < 2 / 3:
            slots["colour"] = rng.choice(COLOURS)
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        colour = s.get("colour", "")
        if s["thing"] == "clock":
            clock = an(f"{colour} clock".strip())
            hours = (s["hour"], str(HOURS.index(s["hour"]) + 1))
            patterns = ("{} at {} o'clock", "{} that shows {} o'clock", "{} saying {} o'clock")
            return [pattern.format(clock, hour) for pattern in patterns for hour in hours]
        if s["thing"] == "tree":
            seasons = SEASON_WORDS[s["season"]]
            if not colour:
                return [f"a tree {season}" for season in seasons]
            pots = (f"in {an(colour)} pot", f"growing in {an(colour)} pot")
            return [f"a tree {pot} {season}" for season in seasons for pot in pots]
        nouns = [an(f"{colour} {noun}".strip()) for noun in MACHINE_WORDS[s["thing"]]]
        return [f"{noun} {decade}" for decade in DECADE_WORDS[s["decade"]] for noun in nouns]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        return self._paint(scene, size)

    def flawed(self, scene: Scene, flaw: str, size: int, rng: random.Random) -> np.ndarray | None:
        return self._paint(scene, size, hourless=True) if "hour" in scene.slots else None

    def _paint(self, scene: Scene, size: int, hourless: bool = False) -> np.ndarray:
        background, dx, dy = scene.layout
        s = scene.slots
        canvas = Canvas(size, BACKGROUNDS[background])
        place = Place(canvas, 0.5 + 0.012 * dx, 0.5 + 0.012 * dy, 0.41)
        fill = PALETTE[s["colour"]] if "colour" in s else None
        if s["thing"] == "clock":
            clock(place, None if hourless else HOURS.index(s["hour"]) + 1, fill or WOOD)
        elif s["thing"] == "tree":
            tree(place, s["season"], fill)
        else:
            MACHINES[s["thing"], s["decade"]](place, fill or GREY)
        return canvas.picture()


def when(slots: Slots) -> str:
    """The hour, decade or season of a scene."""
    return next(slots[kind] for kind in ("hour", "decade", "season") if kind in slots)


# --------------------------------------------------------------------------------------------- the hours


def clock(place: Place, hour: int | None, fill: Colour) -> None:
    """A long hand straight up, a short thick one at the hour, if there is one."""
    place.oval(0, 0, 1, 1, fill)
    place.oval(0, 0, 0.82, 0.82, WHITE)
    for k in range(12):
        u, v = math.sin(k * math.pi / 6), -math.cos(k * math.pi / 6)
        inner = 0.6 if k % 3 == 0 else 0.68
        place.line([(inner * u, inner * v), (0.74 * u, 0.74 * v)], GREY, 0.06)
    place.line([(0, 0), (0, -0.66)], GREY, 0.07)
    if hour is not None:
        angle = hour * math.pi / 6
        place.line([(0, 0), (0.46 * math.sin(angle), -0.46 * math.cos(angle))], DARK, 0.17)
    place.oval(0, 0, 0.13, 0.13, DARK)


# ------------------------------------------------------------------------------------------- the decades


def candlestick_phone(place: Place, fill: Colour) -> None:
    place.oval(0, 0.85, 0.55, 0.16, fill)
    place.polygon(rectangle(-0.12, -0.6, 0.12, 0.85), fill)
    place.polygon([(0, -0.8), (-0.4, -0.95), (-0.4, -0.35), (0, -0.5)], DARK)
    place.oval(0.02, -0.65, 0.24, 0.24, fill)
    place.line([(0.1, -0.35), (0.5, -0.35)], GOLD, 0.1)
    place.line([(0.55, -0.7), (0.55, 0.25)], DARK, 0.17)
    place.polygon([(0.33, 0.45), (0.77, 0.45), (0.64, 0.15), (0.46, 0.15)], DARK)


def rotary_phone(place: Place, fill: Colour) -> None:
    place.polygon([(-0.45, -0.4), (0.45, -0.4), (0.9, 0.8), (-0.9, 0.8)], fill)
    place.line([*arc(0, -0.2, 0.75, 0.45, -75, 75)], mix(fill, DARK, 0.35), 0.24)
    for x in (-0.78, 0.78):
        place.oval(x, -0.28, 0.25, 0.2, mix(fill, DARK, 0.35))
    place.oval(0, 0.28, 0.44, 0.42, WHITE)
    for k in range(8):
        u, v = math.sin(k * math.pi / 4), math.cos(k * math.pi / 4)
        place.oval(0.28 * u, 0.28 + 0.27 * v, 0.075, 0.075, DARK)


def brick_phone(place: Place, fill: Colour) -> None:
    place.line([(0.28, -0.95), (0.28, -0.4)], DARK, 0.13)
    place.polygon(rectangle(-0.42, -0.5, 0.42, 0.98), fill)
    place.polygon(rectangle(-0.28, -0.36, 0.28, -0.08), (150, 180, 120))
    for y in (0.14, 0.42, 0.7):
        for x in (-0.24, 0, 0.24):
            place.polygon(rectangle(x - 0.08, y - 0.08, x + 0.08, y + 0.08), WHITE)


def smartphone(place: Place, fill: Colour) -> None:
    place.polygon(rectangle(-0.52, -0.98, 0.52, 0.98), fill)
    place.polygon(rectangle(-0.42, -0.86, 0.42, 0.86), (196, 226, 244))
    place.polygon(rectangle(-0.14, -0.86, 0.14, -0.76), fill)
    icons = ((240, 110, 90), (250, 190, 60), (90, 180, 110), (80, 130, 220))
    for k, icon in enumerate(icons):
        x, y = -0.19 + 0.38 * (k % 2), -0.3 + 0.42 * (k // 2)
        place.polygon(rectangle(x - 0.13, y - 0.13, x + 0.13, y + 0.13), icon)


def wheels(place: Place, x: float, y: float, r: float, hub: float, rim: Colour) -> None:
    for side in (-1, 1):
        place.oval(side * x, y, r, r, DARK)
        place.oval(side * x, y, hub, hub, rim)


def car_1920s(place: Place, fill: Colour) -> None:
    place.polygon(rectangle(-0.7, -0.75, 0.25, -0.62), DARK)
    place.polygon(rectangle(-0.65, -0.65, 0.2, 0.3), fill)
    place.polygon(rectangle(-0.52, -0.5, -0.25, -0.12), GLASS)
    place.polygon(rectangle(-0.15, -0.5, 0.12, -0.12), GLASS)
    place.polygon(rectangle(0.2, -0.1, 0.85, 0.3), mix(fill, DARK, 0.25))
    place.oval(0.9, 0, 0.13, 0.15, GOLD)
    place.polygon(rectangle(-0.95, 0.28, 1, 0.4), DARK)
    wheels(place, 0.6, 0.5, 0.37, 0.27, GOLD)
    for x in (-0.6, 0.6):
        place.line([(x - 0.25, 0.5), (x + 0.25, 0.5)], DARK, 0.06)
        place.line([(x, 0.25), (x, 0.75)], DARK, 0.06)


def car_1950s(place: Place, fill: Colour) -> None:
    place.polygon([(-0.5, 0), (-0.35, -0.4), (0.25, -0.4), (0.5, 0)], GLASS)
    place.line([(-0.38, -0.42), (0.25, -0.42)], WHITE, 0.13)
    place.line([(-0.04, -0.4), (-0.04, 0)], WHITE, 0.08)
    fins = [(-1.08, -0.4), (-0.75, -0.05), (0.8, -0.05), (1.05, 0.15), (1.05, 0.45), (-1.02, 0.45)]
    place.polygon(fins, fill)
    place.polygon([(-1.0, 0.24), (0.5, 0.12), (0.5, 0.24), (-1, 0.38)], WHITE)
    place.polygon(rectangle(0.9, 0.3, 1.12, 0.5), GREY)
    place.oval(-1.0, -0.12, 0.1, 0.1, (240, 70, 60))
    wheels(place, 0.58, 0.45, 0.26, 0.19, WHITE)
    wheels(place, 0.58, 0.45, 0.12, 0.06, GREY)


def car_1980s(place: Place, fill: Colour) -> None:
    place.polygon([(-0.9, -0.05), (-0.75, -0.55), (0.1, -0.55), (0.45, -0.05)], fill)
    place.polygon([(-0.68, -0.08), (-0.6, -0.43), (-0.33, -0.43), (-0.33, -0.08)], DARK)
    place.polygon([(-0.22, -0.08), (-0.22, -0.43), (0.05, -0.43), (0.28, -0.08)], DARK)
    place.polygon([(-1, -0.08), (0.45, -0.08), (1.1, 0.15), (1.1, 0.45), (-1, 0.45)], fill)
    place.polygon(rectangle(-1.05, 0.15, 1.1, 0.29), DARK)
    place.polygon(rectangle(0.6, -0.14, 0.8, 0.06), (252, 240, 170))
    wheels(place, 0.58, 0.45, 0.26, 0.1, GREY)


def car_2020s(place: Place, fill: Colour) -> None:
    place.polygon([*arc(0, 0.35, 1.05, 0.95, -90, 90), (0.98, 0.5), (-0.98, 0.5)], fill)
    place.polygon([*arc(0.02, 0.08, 0.76, 0.54, -90, 90)], GLASS)
    place.line([(0.92, 0.1), (0.98, 0.24)], WHITE, 0.1)
    wheels(place, 0.58, 0.48, 0.31, 0.22, GREY)


def gramophone(place: Place, fill: Colour) -> None:
    place.polygon(rectangle(-0.7, 0.45, 0.55, 0.95), WOOD)
    place.polygon(rectangle(-0.55, 0.32, 0.4, 0.45), DARK)
    place.line([(-0.1, 0.35), (-0.35, 0), (-0.05, -0.2)], GOLD, 0.14)
    place.polygon([(-0.2, -0.3), (0.45, -1), (0.95, -0.15), (-0.02, -0.06)], fill)
    place.oval(0.7, -0.57, 0.24, 0.52, mix(fill, DARK, 0.45), -30)


def record_player(place: Place, fill: Colour) -> None:
    place.polygon(
        [(-0.85, -0.2), (-0.7, -0.95), (0.7, -0.95), (0.85, -0.2)], mix(fill, WHITE, 0.55)
    )
    place.polygon(rectangle(-0.95, -0.25, 0.95, 0.85), fill)
    place.oval(-0.2, 0.3, 0.6, 0.45, DARK)
    place.oval(-0.2, 0.3, 0.2, 0.15, (250, 220, 120))
    place.line([(0.7, -0.05), (0.7, 0.3), (0.25, 0.45)], WHITE, 0.12)


def boombox(place: Place, fill: Colour) -> None:
    place.line([(-0.6, -0.4), (-0.6, -0.75), (0.6, -0.75), (0.6, -0.4)], DARK, 0.12)
    place.polygon(rectangle(-1.05, -0.45, 1.05, 0.65), fill)
    for x in (-0.64, 0.64):
        place.oval(x, 0.15, 0.35, 0.35, DARK)
        place.oval(x, 0.15, 0.17, 0.17, GREY)
    place.polygon(rectangle(-0.22, 0, 0.22, 0.36), WHITE)
    for x in (-0.1, 0.1):
        place.oval(x, 0.18, 0.07, 0.07, DARK)
    place.polygon(rectangle(-0.85, -0.36, 0.85, -0.26), WHITE)


def headphones(place: Place, fill: Colour) -> None:
    place.line([*arc(0, 0.15, 0.72, 0.9, -90, 90)], fill, 0.2)
    for side in (-1, 1):
        place.oval(side * 0.66, 0.4, 0.3, 0.45, fill)
        place.oval(side * 0.47, 0.4, 0.17, 0.38, DARK)


MACHINES = {
    ("telephone", "1920s"): candlestick_phone,
    ("telephone", "1950s"): rotary_phone,
    ("telephone", "1980s"): brick_phone,
    ("telephone", "2020s"): smartphone,
    ("car", "1920s"): car_1920s,
    ("car", "1950s"): car_1950s,
    ("car", "1980s"): car_1980s,
    ("car", "2020s"): car_2020s,
    ("music player", "1920s"): gramophone,
    ("music player", "1950s"): record_player,
    ("music player", "1980s"): boombox,
    ("music player", "2020s"): headphones,
}


# ------------------------------------------------------------------------------------------- the seasons

GROUNDS: dict[str, Colour] = {
    "spring": (158, 206, 106),
    "summer": (92, 158, 70),
    "autumn": (190, 158, 98),
    "winter": SNOW,
}
CROWNS: dict[str, tuple[Colour, Colour]] = {
    "spring": ((250, 190, 214), (255, 255, 255)),
    "summer": ((46, 128, 60), (86, 164, 76)),
    "autumn": ((222, 122, 36), (250, 190, 60)),
}
SPOTS = ((-0.5, -0.3), (0.5, -0.25), (0.05, -0.7), (-0.15, -0.15), (0.3, 0.02), (-0.35, -0.6))


def tree(place: Place, season: str, pot: Colour | None) -> None:
    """In the ground, or in a pot of a colour."""
    place.oval(0, 0.93, 1, 0.14, GROUNDS[season])
    place.polygon(rectangle(-0.11, 0, 0.11, 0.92), TRUNK)
    if season == "winter":
        bare(place)
    else:
        crown(place, *CROWNS[season])
    if season == "autumn":
        for x, y in ((-0.8, 0.5), (0.6, 0.4), (0.85, 0.75), (-0.5, 0.88), (0.5, 0.92)):
            place.oval(x, y, 0.09, 0.06, CROWNS["autumn"][0], 30)
    if pot:
        place.polygon([(-0.42, 0.5), (0.42, 0.5), (0.3, 1), (-0.3, 1)], pot)
        place.polygon(rectangle(-0.48, 0.45, 0.48, 0.6), mix(pot, DARK, 0.25))


def crown(place: Place, leaves: Colour, spots: Colour) -> None:
    for x, y, r in ((-0.42, -0.2, 0.46), (0.42, -0.2, 0.46), (0, -0.5, 0.5), (0, -0.1, 0.4)):
        place.oval(x, y, r, r, leaves)
    for x, y in SPOTS:
        place.oval(x, y, 0.1, 0.1, spots)


def bare(place: Place) -> None:
    for root, x, y in ((0.2, -0.65, -0.45), (0.2, 0.65, -0.45), (0, -0.25, -0.9), (0, 0.3, -0.85)):
        place.line([(0, root), (x, y)], TRUNK, 0.12)
        place.oval(x, y - 0.04, 0.2, 0.1, SNOW)


FAMILY = Time()
