"""Geography: the flags of countries, in places where flags are.

The paper's capability: geographic knowledge. Every flag is drawn on a box that is 3 wide and 2 high; the
real ones differ in proportions and shades, which a picture of this size cannot show.
"""

import random
from collections.abc import Sequence

import numpy as np

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, Canvas, Colour, Points, ellipse, mix, outline, rectangle

NUDGES = 4

# The shades of flags.
CLOTH: dict[str, Colour] = {
    "black": (25, 25, 30),
    "white": (255, 255, 255),
    "red": (210, 35, 45),
    "green": (0, 130, 75),
    "yellow": (255, 210, 30),
    "blue": (20, 75, 165),
    "navy": (25, 40, 105),
    "sky": (70, 150, 225),
}

Patch = tuple[Points, str]  # corners on the box and the name of the shade


def across(colours: str, heights: Sequence[float] = (1, 1, 1)) -> list[Patch]:
    """Horizontal stripes from the top, as high in proportion as ``heights`` says."""
    edges = [2 * sum(heights[:k]) / sum(heights) for k in range(len(heights) + 1)]
    stripes = zip(colours.split(), edges, edges[1:], strict=False)
    return [(rectangle(0, top, 3, bottom), colour) for colour, top, bottom in stripes]


def down(colours: str, widths: Sequence[float] = (1, 1, 1)) -> list[Patch]:
    """Vertical stripes from the left."""
    stripes = across(colours, widths)
    return [([(1.5 * y, x / 1.5) for x, y in points], colour) for points, colour in stripes]


def field(colour: str) -> list[Patch]:
    """One colour all over."""
    return [(rectangle(0, 0, 3, 2), colour)]


def nordic(ground: str, cross: str) -> list[Patch]:
    """A cross whose upright stands left of the middle."""
    bars = rectangle(0, 0.8, 3, 1.2), rectangle(0.9, 0, 1.3, 2)
    return field(ground) + [(bar, cross) for bar in bars]


def disc(ground: str, colour: str, x: float = 1.5, r: float = 0.6) -> list[Patch]:
    """A round patch."""
    return field(ground) + [(ellipse(x, 1, r, r), colour)]


def crescent() -> list[Patch]:
    """Turkey's moon and star."""
    moon = disc("red", "white", 1.1, 0.52) + [(ellipse(1.25, 1, 0.41, 0.41), "red")]
    return [*moon, (outline("star", 1.85, 1, 0.27), "white")]


def saltire() -> list[Patch]:
    """Jamaica's diagonal cross: the sides are black, the top and the bottom green."""
    sides = [[(0, 0.2), (1.2, 1), (0, 1.8)], [(3, 0.2), (1.8, 1), (3, 1.8)]]
    ends = [[(0.3, 0), (1.5, 0.8), (2.7, 0)], [(0.3, 2), (1.5, 1.2), (2.7, 2)]]
    black, green = [(side, "black") for side in sides], [(end, "green") for end in ends]
    return field("yellow") + black + green


def maple() -> list[Patch]:
    """Canada's leaf."""
    half = [
        (0, -0.7), (0.15, -0.43), (0.3, -0.5), (0.25, -0.1), (0.43, -0.27), (0.48, -0.17), (0.7, -0.2),
        (0.62, 0), (0.72, 0.07), (0.36, 0.37), (0.4, 0.48), (0.05, 0.42), (0.06, 0.75),
    ]  # fmt: skip
    leaf = half + [(-u, v) for u, v in half[::-1]]
    points = [(1.5 + u, 1 + v) for u, v in leaf]
    return [*down("red white red", (1, 2, 1)), (points, "red")]


FLAGS: dict[str, list[Patch]] = {
    "austria": across("red white red"),
    "bangladesh": disc("green", "red", 1.4),
    "belgium": down("black yellow red"),
    "canada": maple(),
    "colombia": across("yellow blue red", (2, 1, 1)),
    "czechia": [*across("white red", (1, 1)), ([(0, 0), (1.5, 1), (0, 2)], "blue")],
    "denmark": nordic("red", "white"),
    "estonia": across("sky black white"),
    "finland": nordic("white", "blue"),
    "france": down("navy white red"),
    "germany": across("black red yellow"),
    "italy": down("green white red"),
    "jamaica": saltire(),
    "japan": disc("white", "red"),
    "nigeria": down("green white green"),
    "palau": disc("sky", "yellow", 1.35),
    "poland": across("white red", (1, 1)),
    "somalia": [*field("sky"), (outline("star", 1.5, 1, 0.6), "white")],
    "sweden": nordic("blue", "yellow"),
    "thailand": across("red white navy white red", (1, 1, 2, 1, 1)),
    "turkey": crescent(),
    "ukraine": across("blue yellow", (1, 1)),
    "vietnam": [*field("red"), (outline("star", 1.5, 1, 0.65), "yellow")],
    "switzerland": [
        *field("red"),
        (rectangle(0.9, 0.8, 2.1, 1.2), "white"),
        (rectangle(1.3, 0.4, 1.7, 1.6), "white"),
    ],
}
COUNTRIES = tuple(sorted(FLAGS))
ADJECTIVES = {
    "austria": "austrian", "bangladesh": "bangladeshi", "belgium": "belgian", "canada": "canadian",
    "colombia": "colombian", "czechia": "czech", "denmark": "danish", "estonia": "estonian",
    "finland": "finnish", "france": "french", "germany": "german", "italy": "italian",
    "jamaica": "jamaican", "japan": "japanese", "nigeria": "nigerian", "palau": "palauan",
    "poland": "polish", "somalia": "somali", "sweden": "swedish", "switzerland": "swiss",
    "thailand": "thai", "turkey": "turkish", "ukraine": "ukrainian", "vietnam": "vietnamese",
}  # fmt: skip
PLACE_WORDS = {
    "pole": ("on a pole", "on a flagpole"),
    "wall": ("on a brick wall", "painted on a wall"),
    "mountain": ("on a mountain", "on top of a snowy mountain"),
    "boat": ("on a boat", "flying from a ship at sea"),
    "shirt": ("on a shirt", "printed on a t-shirt"),
    "castle": ("on a castle", "over the towers of a castle"),
    "moon": ("on the moon", "on the surface of the moon"),
}
PLACES = tuple(PLACE_WORDS)


class Geography(Family):
    """Every country's flag is missing at one place in training, and asked for there in zero-shot."""

    name = "geography"
    slots = {"country": COUNTRIES, "place": PLACES}
    held_out = tuple((each, PLACES[k % len(PLACES)]) for k, each in enumerate(COUNTRIES))

    def is_held_out(self, slots: Slots) -> bool:
        return (slots["country"], slots["place"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        country, places = scene.slots["country"], PLACE_WORDS[scene.slots["place"]]
        adjective = ADJECTIVES[country]
        a = "an" if adjective[0] in "aeiou" else "a"
        flags = f"the flag of {country}", f"{country}'s flag", f"{a} {adjective} flag"
        return [f"{flag} {place}" for flag in flags for place in places]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        background, dx, dy = scene.layout
        canvas = Canvas(size, BACKGROUNDS[background])
        left, top, width = SCENES[scene.slots["place"]](canvas, 0.012 * dx, 0.01 * dy)
        draw_flag(canvas, scene.slots["country"], left, top, width)
        return canvas.picture()


def draw_flag(canvas: Canvas, country: str, left: float, top: float, width: float) -> None:
    """A flag whose upper left corner is at (left, top), with a thin dark border."""
    unit = width / 3
    border = 0.012
    edges = left - border, top - border, left + width + border, top + 2 * unit + border
    canvas.polygon(rectangle(*edges), (95, 95, 105))
    for points, colour in FLAGS[country]:
        canvas.polygon([(left + unit * u, top + unit * v) for u, v in points], CLOTH[colour])


# Each scene paints a place, moved by (dx, dy), and returns the flag's left, top and width.

Spot = tuple[float, float, float]
WOOD, STONE, SNOW = (120, 85, 60), (150, 150, 160), (250, 252, 255)


def pole(canvas: Canvas, left: float, top: float, bottom: float) -> None:
    """A thin upright pole with a knob."""
    canvas.polygon(rectangle(left - 0.02, top, left + 0.02, bottom), WOOD)
    canvas.polygon(ellipse(left, top, 0.035, 0.035), (235, 190, 60))


def at_pole(canvas: Canvas, dx: float, dy: float) -> Spot:
    pole(canvas, 0.15 + dx, 0.1 + dy, 1)
    return 0.19 + dx, 0.14 + dy, 0.69


def on_wall(canvas: Canvas, dx: float, dy: float) -> Spot:
    mortar, brick = mix(canvas.background, (120, 110, 105), 0.5), (190, 105, 80)
    canvas.polygon(rectangle(0, 0, 1, 1), mortar)
    for k in range(7):
        for i in range(-1, 4):
            x, y = (i + (k % 2) / 2) / 3, k / 7
            canvas.polygon(rectangle(x + 0.012, y + 0.012, x + 0.32, y + 0.13), brick)
    return 0.16 + dx, 0.28 + dy, 0.68


def on_mountain(canvas: Canvas, dx: float, dy: float) -> Spot:
    x, y = 0.3 + dx, 0.56 + dy
    pole(canvas, x, y - 0.47, y + 0.03)
    canvas.polygon([(x - 0.6, 1.1), (x, y), (x + 0.75, 1.1)], (120, 120, 140))
    cap = [
        (x, y),
        (x + 0.2, y + 0.15),
        (x + 0.09, y + 0.13),
        (x + 0.02, y + 0.2),
        (x - 0.06, y + 0.13),
    ]
    canvas.polygon([*cap, (x - 0.17, y + 0.16)], SNOW)
    return x + 0.03, y - 0.44, 0.54


def on_boat(canvas: Canvas, dx: float, dy: float) -> Spot:
    x, y = 0.5 + dx, 0.72 + dy
    canvas.polygon(rectangle(0, 0.83, 1, 1), (60, 130, 190))
    pole(canvas, x - 0.3, y - 0.6, y)
    hull = [(x - 0.45, y), (x + 0.45, y), (x + 0.32, y + 0.17), (x - 0.32, y + 0.17)]
    canvas.polygon(hull, (150, 90, 50))
    return x - 0.27, y - 0.56, 0.63


def on_shirt(canvas: Canvas, dx: float, dy: float) -> Spot:
    half = [(0.12, -0.4), (0.26, -0.37), (0.45, -0.12), (0.35, 0), (0.31, -0.06), (0.31, 0.43)]
    points = half + [(-u, v) for u, v in half[::-1]]
    shirt = [(0.5 + dx + u, 0.5 + dy + v) for u, v in points]
    canvas.polygon(shirt, (165, 175, 190))
    canvas.polygon(ellipse(0.5 + dx, 0.1 + dy, 0.12, 0.07), canvas.background)
    return 0.245 + dx, 0.34 + dy, 0.51


def on_castle(canvas: Canvas, dx: float, dy: float) -> Spot:
    x, y = 0.5 + dx, 0.66 + dy
    pole(canvas, x - 0.25, y - 0.54, y)
    canvas.polygon(rectangle(x - 0.42, y, x + 0.42, 1.1), STONE)
    for k in range(-2, 3):
        canvas.polygon(rectangle(x + 0.18 * k - 0.06, y - 0.08, x + 0.18 * k + 0.06, y), STONE)
    gate = mix(STONE, (0, 0, 0), 0.6)
    canvas.polygon(rectangle(x - 0.1, y + 0.18, x + 0.1, 1.1), gate)
    canvas.polygon(ellipse(x, y + 0.18, 0.1, 0.1), gate)
    return x - 0.22, y - 0.51, 0.57


def on_moon(canvas: Canvas, dx: float, dy: float) -> Spot:
    canvas.polygon(rectangle(0, 0, 1, 1), mix(canvas.background, (20, 20, 45), 0.93))
    for u, v in [(0.07, 0.12), (0.45, 0.06), (0.93, 0.09), (0.9, 0.62), (0.08, 0.56)]:
        canvas.polygon(outline("diamond", u, v, 0.025), (255, 250, 220))
    canvas.polygon(ellipse(0.5, 1.25, 0.9, 0.48), (190, 190, 185))
    for u, v, r in [(0.55, 0.9, 0.1), (0.85, 0.97, 0.08), (0.2, 0.97, 0.07)]:
        canvas.polygon(ellipse(u, v, r, 0.5 * r), (145, 145, 145))
    pole(canvas, 0.24 + dx, 0.14 + dy, 0.86)
    return 0.27 + dx, 0.17 + dy, 0.61


SCENES = dict(
    zip(PLACES, (at_pole, on_wall, on_mountain, on_boat, on_shirt, on_castle, on_moon), strict=True)
)

FAMILY = Geography()
