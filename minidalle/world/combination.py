"""Combination: everyday things made of what nobody makes them of.

The capability of DALL·E: combining unrelated concepts, as in the armchairs in the shape of an avocado of its
announcement and the tapir made of accordion of the paper (figure 2).
"""

import math
import random
from functools import cache

import numpy as np
from PIL import Image

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, Canvas, Points, ellipse, moved, rectangle

NUDGES = 4
EDGE = (60, 50, 50)

THING_WORDS = {
    "boot": ("boot", "rain boot"),
    "bottle": ("bottle",),
    "car": ("car", "automobile"),
    "chair": ("chair", "seat"),
    "guitar": ("guitar",),
    "hat": ("hat", "top hat"),
    "lamp": ("lamp", "table lamp"),
    "mug": ("mug", "cup"),
    "table": ("table", "desk"),
    "teapot": ("teapot",),
}
MATERIAL_WORDS = {
    "bricks": ("made of bricks", "built from bricks"),
    "candy": ("made of candy", "made out of candy canes"),
    "cheese": ("made of cheese", "carved out of swiss cheese"),
    "chocolate": ("made of chocolate", "in the form of a chocolate bar"),
    "grass": ("made of grass", "overgrown with grass"),
    "ice": ("made of ice", "frozen out of ice"),
    "leopard fur": ("made of leopard fur", "covered in spotted leopard fur"),
    "watermelon": ("made of watermelon", "in the style of a watermelon"),
    "wood": ("made of wood", "carved from wooden planks"),
    "wool": ("made of wool", "knitted out of woollen yarn"),
}


class Combination(Family):
    """Each thing and each material is in some composition that no training picture shows."""

    name = "combination"
    slots = {"thing": tuple(THING_WORDS), "material": tuple(MATERIAL_WORDS)}
    held_out = (
        ("boot", "leopard fur"),
        ("bottle", "grass"),
        ("car", "cheese"),
        ("chair", "watermelon"),
        ("chair", "ice"),
        ("guitar", "candy"),
        ("hat", "wood"),
        ("lamp", "wool"),
        ("mug", "chocolate"),
        ("table", "bricks"),
        ("teapot", "leopard fur"),
        ("teapot", "bricks"),
    )

    def is_held_out(self, slots: Slots) -> bool:
        return (slots["thing"], slots["material"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        thing, material = scene.slots["thing"], scene.slots["material"]
        phrasings = [
            f"a {noun} {words}" for noun in THING_WORDS[thing] for words in MATERIAL_WORDS[material]
        ]
        return [phrase.replace("a automobile", "an automobile") for phrase in phrasings]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        background, dx, dy = scene.layout
        canvas = Canvas(size, BACKGROUNDS[background])
        x, y = 0.5 + 0.01 * dx, 0.5 + 0.01 * dy
        # The material is the same at the same place of every picture: things are cut out of it.
        material = texture(scene.slots["material"], size)
        for part in THINGS[scene.slots["thing"]]:
            points = moved(part, x, y)
            canvas.line([*points, points[0]], EDGE, 0.035)
            canvas.filled([points], material)
        for hole in HOLES.get(scene.slots["thing"], ()):
            canvas.polygon(moved(hole, x, y), EDGE)
        return canvas.picture()


# -------------------------------------------------------------------------------------------- things


def loop(x: float, y: float, outer: float, inner: float, turn: float = 0.0) -> Points:
    """A handle: the right half of a ring around (x, y), turned by ``turn`` half circles."""
    angles = [math.pi * (k / 12 + turn - 0.5) for k in range(13)]
    one = [(x + outer * math.cos(a), y + outer * math.sin(a)) for a in angles]
    two = [(x + inner * math.cos(a), y + inner * math.sin(a)) for a in angles]
    return one + two[::-1]


def both_sides(*half: tuple[float, float]) -> Points:
    """A symmetrical polygon, given by its right half from top to bottom."""
    return [*half, *[(-u, v) for u, v in half[::-1]]]


# Polygons around (0, 0); each is outlined, so that parts can be told from each other.
THINGS: dict[str, list[Points]] = {
    "boot": [
        [
            (-0.26, -0.4), (0.06, -0.4), (0.06, 0.02), (0.28, 0.06), (0.38, 0.17), (0.38, 0.28),
            (-0.26, 0.28),
        ],
        rectangle(-0.28, 0.28, 0.4, 0.4),
        rectangle(-0.29, -0.42, 0.09, -0.3),
    ],
    "bottle": [
        [
            (-0.09, -0.3), (0.09, -0.3), (0.1, -0.16), (0.22, 0), (0.22, 0.42), (-0.22, 0.42), (-0.22, 0),
            (-0.1, -0.16),
        ],
        rectangle(-0.12, -0.42, 0.12, -0.3),
    ],
    "car": [
        [(-0.26, -0.02), (-0.16, -0.25), (0.14, -0.25), (0.27, -0.02)],
        [
            (-0.44, 0), (-0.3, -0.04), (0.3, -0.04), (0.41, 0.02), (0.44, 0.2), (-0.44, 0.2),
        ],
        ellipse(-0.25, 0.2, 0.13, 0.13),
        ellipse(0.25, 0.2, 0.13, 0.13),
    ],
    "chair": [
        rectangle(-0.22, 0.05, -0.14, 0.34),
        rectangle(0.14, 0.05, 0.22, 0.34),
        rectangle(-0.25, -0.44, 0.25, 0.06),
        rectangle(-0.33, 0.1, -0.21, 0.44),
        rectangle(0.21, 0.1, 0.33, 0.44),
        [(-0.25, 0), (0.25, 0), (0.35, 0.17), (-0.35, 0.17)],
    ],
    "guitar": [
        rectangle(-0.05, -0.36, 0.05, 0),
        rectangle(-0.09, -0.45, 0.09, -0.33),
        both_sides(
            (0.07, -0.14), (0.16, -0.1), (0.2, -0.02), (0.16, 0.08), (0.16, 0.12), (0.24, 0.19),
            (0.28, 0.28), (0.26, 0.37), (0.17, 0.43), (0.06, 0.45),
        ),
    ],
    "hat": [
        [(-0.23, -0.36), (0.23, -0.36), (0.2, 0.22), (-0.2, 0.22)],
        ellipse(0, 0.24, 0.43, 0.1),
    ],
    "lamp": [
        rectangle(-0.05, -0.06, 0.05, 0.34),
        [(-0.18, -0.43), (0.18, -0.43), (0.36, -0.02), (-0.36, -0.02)],
        [(-0.16, 0.32), (0.16, 0.32), (0.24, 0.43), (-0.24, 0.43)],
    ],
    "mug": [
        loop(0.2, 0.02, 0.22, 0.11),
        [(-0.32, -0.32), (0.24, -0.32), (0.22, 0.36), (-0.3, 0.36)],
    ],
    "table": [
        rectangle(-0.27, -0.05, -0.17, 0.22),
        rectangle(0.17, -0.05, 0.27, 0.22),
        rectangle(-0.42, 0, -0.3, 0.36),
        rectangle(0.3, 0, 0.42, 0.36),
        [(-0.3, -0.26), (0.3, -0.26), (0.45, 0.01), (-0.45, 0.01)],
    ],
    "teapot": [
        loop(-0.22, 0.06, 0.21, 0.12, 1.0),
        [(0.1, 0.1), (0.33, -0.14), (0.45, -0.17), (0.45, -0.09), (0.2, 0.32)],
        ellipse(0.02, 0.1, 0.27, 0.26),
        ellipse(0.02, -0.17, 0.06, 0.06),
        ellipse(0.02, -0.09, 0.19, 0.07),
    ],
}  # fmt: skip

# Dark places on a thing.
HOLES = {
    "car": [ellipse(-0.25, 0.2, 0.05, 0.05), ellipse(0.25, 0.2, 0.05, 0.05)],
    "guitar": [ellipse(0, 0.15, 0.08, 0.08)],
}


# ----------------------------------------------------------------------------------------- materials


@cache
def texture(material: str, size: int) -> Image.Image:
    """A large canvas full of the material, drawn once."""
    canvas = Canvas(size, (255, 255, 255))
    MATERIALS[material](canvas)
    return canvas.image


ALL = rectangle(0, 0, 1, 1)


def staggered(n: int) -> Points:
    """n places in each of n rows; every second row is shifted by half a step."""
    return [((i + (k % 2) / 2) / n, (k + 0.5) / n) for k in range(n) for i in range(n + 1)]


def bricks(canvas: Canvas) -> None:
    canvas.polygon(ALL, (225, 215, 205))
    for u, v in staggered(9)[::2]:
        canvas.polygon(rectangle(u - 0.1, v - 0.045, u + 0.1, v + 0.045), (190, 75, 50))


def candy(canvas: Canvas) -> None:
    canvas.polygon(ALL, (255, 255, 255))
    for k in range(-6, 7):
        u = k / 6
        stripe = [(u, 0), (u + 0.085, 0), (u + 1.085, 1), (u + 1, 1)]
        canvas.polygon(stripe, (230, 40, 60))


def cheese(canvas: Canvas) -> None:
    canvas.polygon(ALL, (252, 215, 85))
    for k, (u, v) in enumerate(staggered(6)):
        r = (0.05, 0.03, 0.04)[k % 3]
        canvas.polygon(ellipse(u, v, r, r), (205, 150, 35))


def chocolate(canvas: Canvas) -> None:
    canvas.polygon(ALL, (60, 32, 20))
    for k in range(8):
        for i in range(8):
            u, v = i / 8, k / 8
            canvas.polygon(rectangle(u + 0.012, v + 0.012, u + 0.113, v + 0.113), (135, 85, 55))
            canvas.polygon(rectangle(u + 0.03, v + 0.03, u + 0.113, v + 0.113), (95, 55, 35))


def grass(canvas: Canvas) -> None:
    canvas.polygon(ALL, (45, 130, 45))
    for u, v in staggered(10):
        blade = [(u - 0.03, v + 0.06), (u + 0.02, v - 0.08), (u + 0.03, v + 0.06)]
        canvas.polygon(blade, (135, 205, 70))


def ice(canvas: Canvas) -> None:
    canvas.polygon(ALL, (165, 215, 240))
    for k in range(-4, 6):
        u = k / 4
        canvas.polygon([(u, 0), (u + 0.12, 0), (u - 0.68, 1), (u - 0.8, 1)], (225, 243, 252))
        canvas.line([(u + 0.17, 0), (u - 0.63, 1)], (110, 180, 220), 0.014)


def leopard(canvas: Canvas) -> None:
    canvas.polygon(ALL, (230, 175, 95))
    for u, v in staggered(7):
        canvas.polygon(ellipse(u, v, 0.05, 0.042), (60, 38, 22))
        canvas.polygon(ellipse(u, v, 0.024, 0.02), (175, 110, 50))


def watermelon(canvas: Canvas) -> None:
    """Red flesh with seeds; a rind runs through it here and there."""
    canvas.polygon(ALL, (232, 62, 75))
    for u, v in staggered(6):
        canvas.polygon(ellipse(u, v, 0.018, 0.03), (35, 28, 28))
    for top in (0.0, 0.8):
        canvas.polygon(rectangle(0, top, 1, top + 0.2), (35, 125, 55))
        inner = top + 0.2 if top < 0.5 else top - 0.05
        canvas.polygon(rectangle(0, inner, 1, inner + 0.05), (235, 245, 215))


def wood(canvas: Canvas) -> None:
    canvas.polygon(ALL, (185, 130, 80))
    for k in range(6):
        v = (k + 0.5) / 6
        canvas.line([(0, v + 0.07), (1, v + 0.07)], (105, 65, 35), 0.016)
        wave = [(t / 8, v + 0.02 * math.sin(t * 1.6 + k)) for t in range(9)]
        canvas.line(wave, (150, 98, 58), 0.014)


def wool(canvas: Canvas) -> None:
    canvas.polygon(ALL, (90, 60, 140))
    for k in range(10):
        for i in range(7):
            u, v = (i + 0.5) / 7, k / 10
            for way in (-1, 1):
                stitch = [(u + 0.01 * way, v + 0.1), (u + 0.06 * way, v + 0.02)]
                canvas.line(stitch, (175, 145, 220), 0.035)


MATERIALS = {
    "bricks": bricks,
    "candy": candy,
    "cheese": cheese,
    "chocolate": chocolate,
    "grass": grass,
    "ice": ice,
    "leopard fur": leopard,
    "watermelon": watermelon,
    "wood": wood,
    "wool": wool,
}

FAMILY = Combination()
