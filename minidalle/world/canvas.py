"""A canvas in unit coordinates, the palette and the shapes.  (Chapter 2)

Everything is drawn with Pillow at a multiple of the wanted size and averaged down. Corners are rounded
to whole pixels of the large canvas first, so that every machine paints the same bytes. y points down.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]

# Eight colours with everyday names. Blue and purple, red and green, orange and yellow come near each
# other for a colour-blind reader (chapter 2 measures it), so no figure may rely on colour alone.
PALETTE: dict[str, Colour] = {
    "red": (213, 43, 30),
    "orange": (245, 140, 20),
    "yellow": (250, 215, 50),
    "green": (0, 140, 80),
    "blue": (30, 90, 200),
    "purple": (135, 65, 165),
    "pink": (250, 160, 200),
    "black": (35, 35, 40),
}
BACKGROUNDS: tuple[Colour, ...] = ((250, 250, 248), (238, 240, 242), (232, 242, 248))

# One list for the whole world: no training scene of any family names these colours and shapes together.
# (One is drawn all the same: the front of a purple cube in a stack is a square.)
HELD_OUT_PAIRS = (
    ("red", "cross"),
    ("orange", "heart"),
    ("yellow", "diamond"),
    ("green", "circle"),
    ("blue", "triangle"),
    ("purple", "square"),
    ("pink", "star"),
    ("black", "ring"),
)


def mix(colour: Colour, other: Colour, share: float) -> Colour:
    """``colour`` with ``share`` (0–1) of ``other`` mixed in."""
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


class Canvas:
    """A square picture with (0, 0) at the top left and (1, 1) at the bottom right."""

    def __init__(self, size: int, background: Colour):
        self.size = size
        self.background = background
        self.scale = 4 if size <= 64 else 2
        self.image = Image.new("RGB", (size * self.scale,) * 2, background)
        self.pen = ImageDraw.Draw(self.image)

    def _pixels(self, points: Points) -> Points:
        side = self.size * self.scale
        return [(round(x * side), round(y * side)) for x, y in points]

    def polygon(self, points: Points, fill: Colour) -> None:
        """Fill a polygon given by its corners in unit coordinates."""
        self.pen.polygon(self._pixels(points), fill=fill)

    def line(self, points: Points, fill: Colour, width: float) -> None:
        """Draw a line of the given width (unit coordinates) with round ends and joints."""
        pixels = self._pixels(points)
        thick = max(1, round(width * self.size * self.scale))
        self.pen.line(pixels, fill=fill, width=thick)
        r = thick // 2
        for x, y in pixels:
            self.pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def filled(self, parts: list[Points], texture: Image.Image) -> None:
        """Fill polygons with what another canvas of the same size shows at their places."""
        mask = Image.new("1", self.image.size)
        pen = ImageDraw.Draw(mask)
        for points in parts:
            pen.polygon(self._pixels(points), fill=1)
        self.image.paste(texture, mask=mask)

    def shape(self, shape: str, x: float, y: float, r: float, fill: Colour, pattern: str = "plain"):
        """Draw one of ``SHAPES`` around (x, y) with radius r: plain, striped or dotted."""
        self.polygon(outline(shape, x, y, r), fill)
        if pattern != "plain":
            self._patterned(shape, x, y, r, fill, pattern)
        if shape == "ring":
            self.polygon(outline("circle", x, y, 0.5 * r), self.background)

    def _patterned(self, shape: str, x: float, y: float, r: float, fill: Colour, pattern: str):
        """Stripes and dots are painted on a second canvas, of which the shape's inside is kept.

        A rim stays plain, so that the outline can be read.
        """
        layer = Canvas(self.size, fill)
        pale = mix(fill, (255, 255, 255), 0.7)
        step = 0.56 * r
        if pattern == "striped":
            for k in (-1, 0, 1):
                y_k = y + k * step
                layer.polygon(rectangle(x - r, y_k - step / 4, x + r, y_k + step / 4), pale)
        else:
            for k in (-1, 0, 1):
                for i in (-2, -1, 0, 1, 2):
                    shift = step / 2 if k else 0
                    layer.polygon(
                        outline("circle", x + i * step + shift, y + k * step, 0.15 * r), pale
                    )
        mask = Image.new("1", self.image.size)
        ImageDraw.Draw(mask).polygon(self._pixels(outline(shape, x, y, 0.8 * r)), fill=1)
        self.image.paste(layer.image, mask=mask)

    def picture(self) -> np.ndarray:
        """The finished picture, uint8 ``(size, size, 3)``."""
        return np.array(self.image.reduce(self.scale))


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """The corners of an upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def ellipse(x: float, y: float, across: float, down: float, corners: int = 40) -> Points:
    """An ellipse around (x, y), given by its half axes."""
    return [(x + across * u, y + down * v) for u, v in _turned([1.0] * corners)]


def moved(points: Points, x: float, y: float, scale: float = 1.0) -> Points:
    """Points around (0, 0), enlarged by ``scale``, then carried to (x, y)."""
    return [(x + scale * u, y + scale * v) for u, v in points]


def _turned(radii: list[float]) -> Points:
    """Corners at equal angles around (0, 0), the first one straight up, at the given distances."""
    angles = [2 * math.pi * k / len(radii) for k in range(len(radii))]
    return [(r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True)]


def _heart() -> Points:
    points = []
    for k in range(40):
        t = 2 * math.pi * k / 40
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -(up + 2.5) / 15.5))
    return points


def _cross() -> Points:
    half = [(0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33), (0.33, 1)]
    return half + [(-u, -v) for u, v in half]


# Corners around (0, 0), all of about the same visual size.
UNIT_SHAPES: dict[str, Points] = {
    "circle": _turned([1.0] * 40),
    "square": rectangle(-0.85, -0.85, 0.85, 0.85),
    "triangle": [(0, -0.95), (1, 0.8), (-1, 0.8)],
    "diamond": [(0, -1.05), (0.75, 0), (0, 1.05), (-0.75, 0)],
    "star": [(u, v + 0.05) for u, v in _turned([1.1, 0.45] * 5)],
    "heart": _heart(),
    "cross": _cross(),
    "ring": _turned([1.0] * 40),
}
SHAPES = tuple(UNIT_SHAPES)


def outline(shape: str, x: float, y: float, r: float) -> Points:
    """The corners of one of ``SHAPES`` around (x, y) with radius r."""
    return [(x + r * u, y + r * v) for u, v in UNIT_SHAPES[shape]]


ROUND = _turned([1.0] * 24)  # a circle with fewer corners, for the smaller round things


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
    """9 points of an ellipse's edge, from ``start`` to ``end`` degrees clockwise from the top."""
    angles = [math.radians(start + (end - start) * k / 8) for k in range(9)]
    return [(x + rx * math.sin(a), y - ry * math.cos(a)) for a in angles]


class Place:
    """A pen with coordinates of its own: (0, 0) is at (x, y) of the canvas, 1 is r long, y points down.

    tint, share: light that falls on everything, mixed into each colour. flip: draw upside down.
    paper: draw outlines on paper of this colour instead of coloured areas.
    """

    INK: Colour = (40, 40, 45)
    STROKE = 0.016  # of the canvas

    def __init__(
        self,
        canvas: Canvas,
        x: float,
        y: float,
        r: float,
        *,
        tint: Colour = (0, 0, 0),
        share: float = 0.0,
        flip: bool = False,
        paper: Colour | None = None,
    ):
        self.canvas, self.r = canvas, r
        self.tint, self.share, self.paper = tint, share, paper
        side = canvas.size * canvas.scale
        self.left, self.top, self.across = x * side, y * side, r * side
        self.down = -self.across if flip else self.across

    def _pixels(self, points: Points) -> Points:
        left, top, across, down = self.left, self.top, self.across, self.down
        return [(round(left + across * u), round(top + down * v)) for u, v in points]

    def _lit(self, fill: Colour) -> Colour:
        return mix(fill, self.tint, self.share) if self.share else fill

    def polygon(self, points: Points, fill: Colour) -> None:
        """Fill a polygon, or outline it."""
        corners = self._pixels(points)
        if self.paper is None:
            self.canvas.pen.polygon(corners, fill=self._lit(fill))
        else:
            self.canvas.pen.polygon(corners, fill=self.paper)
            self._stroke([*corners, corners[0]], self.INK, self.STROKE)

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, tilt: float = 0.0
    ) -> None:
        """Fill or outline an ellipse around (x, y), turned clockwise by ``tilt`` degrees."""
        if not tilt and self.paper is None:  # the same with fewer corners to compute
            (a, b), (c, d) = self._pixels([(x - rx, y - ry), (x + rx, y + ry)])
            self.canvas.pen.ellipse((a, min(b, d), c, max(b, d)), fill=self._lit(fill))
            return
        c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        edge = [(x + c * rx * u - s * ry * v, y + s * rx * u + c * ry * v) for u, v in ROUND]
        self.polygon(edge, fill)

    def line(self, points: Points, fill: Colour, width: float) -> None:
        """A line of the given width, or a stroke of ink."""
        pixels = self._pixels(points)
        if self.paper is None:
            self._stroke(pixels, self._lit(fill), width * self.r)
        else:
            self._stroke(pixels, self.INK, self.STROKE)

    def _stroke(self, pixels: Points, fill: Colour, width: float) -> None:
        thick = max(1, round(width * self.canvas.size * self.canvas.scale))
        self.canvas.pen.line(pixels, fill=fill, width=thick)
        r = thick // 2
        for x, y in pixels:
            self.canvas.pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
