"""Perspective: a solid in one of several styles of drawing, seen from one of five sides.

The paper's capability: viewpoint and three-dimensionality. Solids that turn alike to all sides (spheres,
standing cones) are left out: nobody could tell from where they are seen.
"""

import math
import random
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, PALETTE, Canvas, Colour, Points, mix, moved

Point3 = tuple[float, float, float]  # x to the right, y up, z towards the viewer

NUDGES = 4
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink")
STYLES = ("solid", "wireframe", "glass", "cartoon")
INK = (25, 25, 30)

# Degrees by which the viewer walks to the left and climbs, and the words for it.
VIEWS = {"front": (0, 8), "above": (0, 52), "below": (0, -45), "left": (38, 16), "right": (-38, 16)}
VIEW_WORDS = {
    "front": ("seen from the front", "viewed from the front", "from the front"),
    "above": ("seen from above", "viewed from the top", "looked down on from above"),
    "below": ("seen from below", "viewed from underneath", "looked up at from below"),
    "left": ("seen from the left", "viewed from the left side", "from the left"),
    "right": ("seen from the right", "viewed from the right side", "from the right"),
}

# Fronts of the solids, counter-clockwise; each is pushed back by twice its DEPTH.
DEPTH = 0.75
FRONTS = {
    "cube": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "wedge": [(-0.95, -0.65), (0.95, -0.65), (0.95, 0.75)],
    "cylinder": [(0.85 * math.cos(k * math.pi / 12), 0.85 * math.sin(k * math.pi / 12)) for k in range(24)],
    "staircase": [
        (-0.95, -0.8), (0.95, -0.8), (0.95, 0.8), (0.32, 0.8), (0.32, 0.27), (-0.32, 0.27),
        (-0.32, -0.27), (-0.95, -0.27),
    ],
    "arch": [
        (-0.95, -0.8), (-0.42, -0.8), (-0.42, 0.25), (0.42, 0.25), (0.42, -0.8), (0.95, -0.8),
        (0.95, 0.8), (-0.95, 0.8),
    ],
}  # fmt: skip
SOLIDS = ("cube", "pyramid", "wedge", "cylinder", "staircase", "arch")
SOLID_WORDS = {
    "cube": ("cube", "block"),
    "wedge": ("wedge", "ramp"),
    "cylinder": ("cylinder", "drum"),
    "staircase": ("staircase", "flight of stairs"),
    "arch": ("arch", "gate"),
}


class Face(NamedTuple):
    """One face of a solid as it is seen: its corners around (0, 0), y down, and how light it is.

    light: share of white to mix into the colour, or of black where it is negative.
    edges: lines to draw where edges are drawn; facets of something round have few or none.
    """

    points: Points
    edges: tuple[Points, ...]
    light: float
    visible: bool


class Perspective(Family):
    """Held out are colours of solids (a cube's front is a square: `HELD_OUT_PAIRS`) and of styles.

    The purple cube is new as a solid alone, in this family's views and styles: the stacks of the family
    "objects" have purple cubes, and their captions say both words.
    """

    name = "perspective"
    slots = {"view": tuple(VIEWS), "style": STYLES, "colour": COLOURS, "solid": SOLIDS}
    held_out = (
        ("purple", "cube"),
        ("blue", "pyramid"),
        ("blue", "wedge"),
        ("green", "cylinder"),
        ("yellow", "staircase"),
        ("pink", "arch"),
        ("red", "glass"),
        ("orange", "wireframe"),
        ("green", "cartoon"),
        ("purple", "solid"),
    )

    def is_held_out(self, slots: Slots) -> bool:
        pairs = (slots["colour"], slots["solid"]), (slots["colour"], slots["style"])
        return any(pair in self.held_out for pair in pairs)

    def sample(self, rng: random.Random) -> Scene:
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        phrasings = []
        for noun in SOLID_WORDS.get(s["solid"], (s["solid"],)):
            words = {
                "solid": (f"{s['colour']} {noun}",),
                "wireframe": (
                    f"{s['colour']} wireframe {noun}",
                    f"wireframe of a {s['colour']} {noun}",
                ),
                "glass": (f"{s['colour']} glass {noun}", f"{noun} of {s['colour']} glass"),
                "cartoon": (f"{s['colour']} cartoon {noun}", f"cartoon of a {s['colour']} {noun}"),
            }
            views = VIEW_WORDS[s["view"]]
            phrasings += [f"a {thing} {view}" for thing in words[s["style"]] for view in views]
        return [p.replace("a orange", "an orange").replace("a arch", "an arch") for p in phrasings]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        background, dx, dy = scene.layout
        s = scene.slots
        canvas = Canvas(size, BACKGROUNDS[background])
        x, y = 0.5 + 0.008 * dx, 0.5 + 0.008 * dy
        faces = [placed(face, x, y) for face in seen(s["solid"], s["view"])]
        PAINT[s["style"]](canvas, faces, PALETTE[s["colour"]])
        return canvas.picture()


def paint_solid(canvas: Canvas, faces: list[Face], colour: Colour) -> None:
    """The faces that look at the viewer, the nearest last."""
    for face in faces:
        if face.visible:
            canvas.polygon(face.points, lit(colour, face.light))


def paint_wires(canvas: Canvas, faces: list[Face], colour: Colour) -> None:
    """All edges, the hidden ones paler: else a cube seen from above would be one seen from below."""
    ink = mix(colour, (0, 0, 0), 0.12)
    for face in sorted(faces, key=lambda face: face.visible):
        draw_edges(canvas, face, ink if face.visible else mix(ink, (255, 255, 255), 0.6), 0.026)


def paint_glass(canvas: Canvas, faces: list[Face], colour: Colour) -> None:
    """Hidden faces shine through the visible ones."""
    tint = mix(colour, (255, 255, 255), 0.15)
    for face in faces:
        if not face.visible:
            canvas.polygon(face.points, lit(tint, 0.6 * face.light))
    behind = canvas.image.copy()
    paint_solid(canvas, faces, tint)
    # Five eighths have no rounding error in binary: every machine mixes the same bytes.
    canvas.image = Image.blend(behind, canvas.image, 0.625)
    canvas.pen = ImageDraw.Draw(canvas.image)
    for face in faces:
        draw_edges(canvas, face, (255, 255, 255), 0.016)


def paint_cartoon(canvas: Canvas, faces: list[Face], colour: Colour) -> None:
    """Flat faces with thick black edges."""
    for face in faces:
        if face.visible:
            canvas.line([*face.points, face.points[0]], INK, 0.04)
    for face in faces:
        if face.visible:
            canvas.polygon(face.points, lit(colour, face.light))
            draw_edges(canvas, face, INK, 0.04)


PAINT = {
    "solid": paint_solid,
    "wireframe": paint_wires,
    "glass": paint_glass,
    "cartoon": paint_cartoon,
}


def draw_edges(canvas: Canvas, face: Face, colour: Colour, width: float) -> None:
    """Draw the edges of a face."""
    for edge in face.edges:
        canvas.line(edge, colour, width)


def placed(face: Face, x: float, y: float) -> Face:
    """A face, carried to (x, y)."""
    edges = tuple(moved(edge, x, y) for edge in face.edges)
    return face._replace(points=moved(face.points, x, y), edges=edges)


def lit(colour: Colour, light: float) -> Colour:
    """The colour in light (mixed with white) or in shadow (mixed with black)."""
    return mix(colour, (255, 255, 255) if light > 0 else (0, 0, 0), abs(light))


@cache
def seen(solid: str, view: str) -> tuple[Face, ...]:
    """The faces of a solid from a viewpoint, the farthest first and its front last."""
    turn, climb = (math.radians(angle) for angle in VIEWS[view])
    found = []
    for number, corners in enumerate(faces_of(solid)):
        turned = [rotated(corner, turn, climb) for corner in corners]
        # Perspective: what is nearer is larger. The eye is 5 units away from the middle.
        points = [(1.65 * x / (5 - z), -1.65 * y / (5 - z)) for x, y, z in turned]
        nearness = math.inf if number == 0 else sum(z for _, _, z in turned) / len(turned)
        edges = ([*points, points[0]],)
        if solid == "cylinder" and number > 1:  # a facet; every sixth has an edge to draw
            edges = (points[:2],) if number % 6 == 2 else ()
        face = Face(points, edges, light_on(corners), signed_area(points) < 0)
        found.append((nearness, face))
    return tuple(face for _, face in sorted(found, key=lambda pair: pair[0]))


def faces_of(solid: str) -> list[list[Point3]]:
    """Corners of all faces, the front first, counter-clockwise from outside."""
    if solid == "pyramid":
        tip = (0.0, 0.9, 0.0)
        base = [(-0.9, -0.75, 0.9), (0.9, -0.75, 0.9), (0.9, -0.75, -0.9), (-0.9, -0.75, -0.9)]
        sides = [[base[k], base[(k + 1) % 4], tip] for k in range(4)]
        return [*sides, base[::-1]]
    front = [(x, y, DEPTH) for x, y in FRONTS[solid]]
    back = [(x, y, -DEPTH) for x, y in FRONTS[solid]]
    n = len(front)
    sides = [[front[k], back[k], back[(k + 1) % n], front[(k + 1) % n]] for k in range(n)]
    return [front, back[::-1], *sides]


def rotated(point: Point3, turn: float, climb: float) -> Point3:
    """Where a point is after the viewer walked to the left by ``turn`` and climbed by ``climb``."""
    x, y, z = point
    x, z = x * math.cos(turn) + z * math.sin(turn), z * math.cos(turn) - x * math.sin(turn)
    return x, y * math.cos(climb) - z * math.sin(climb), y * math.sin(climb) + z * math.cos(climb)


def light_on(corners: list[Point3]) -> float:
    """Light falls from above and in front: tops are light, sides and bottoms dark."""
    a, b, c = (np.array(corner) for corner in corners[:3])
    across, up, _ = normal = np.cross(b - a, c - b)
    length = float(np.linalg.norm(normal))
    return 0.5 * max(0.0, up / length) - 0.3 * abs(across / length) - 0.4 * max(0.0, -up / length)


def signed_area(points: Points) -> float:
    """Twice the area; negative where the corners run counter-clockwise on the picture (y down)."""
    pairs = zip(points, points[1:] + points[:1], strict=True)
    return sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)


FAMILY = Perspective()
