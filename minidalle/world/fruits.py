"""How fruits and vegetables look: from outside, cut in two, and the skin from very near.  (Chapter 2)

Drawings for the family `structure`. Outsides and halves are painted around (x, y), skins all over.
"""

import math
from functools import cache

from PIL import Image

from .canvas import Canvas, Colour, Points, ellipse, mix, moved, outline, rectangle

CREAM, LEAF, STEM = (250, 240, 205), (60, 150, 60), (110, 80, 50)

# ------------------------------------------------------------------------------------------ outsides


def whole_watermelon(canvas: Canvas, x: float, y: float) -> None:
    dark, light = (25, 95, 45), (115, 185, 85)
    canvas.polygon(ellipse(x, y, 0.4, 0.31), light)
    for k in (-2, -1, 0, 1, 2):
        # A stripe is the difference of two ellipses with the same poles, as a meridian is.
        inner, outer = (0.4 * math.sin((k + d) * 0.62) for d in (-0.26, 0.26))
        canvas.polygon(between(x, y, inner, outer, 0.305), dark)


def between(x: float, y: float, first: float, second: float, down: float) -> Points:
    """The area between two half ellipses from the top pole to the bottom pole."""
    angles = [math.pi * (k / 12 - 0.5) for k in range(13)]
    one = [(x + first * math.cos(a), y + down * math.sin(a)) for a in angles]
    two = [(x + second * math.cos(a), y + down * math.sin(a)) for a in angles]
    return one + two[::-1]


def whole_orange(canvas: Canvas, x: float, y: float) -> None:
    canvas.polygon(ellipse(x, y, 0.35, 0.35), (245, 140, 20))
    for u, v in spots(0.3, 0.14):
        canvas.polygon(outline("circle", x + u, y + v, 0.018), (205, 105, 5))
    leaf(canvas, x, y - 0.32)


def leaf(canvas: Canvas, x: float, y: float) -> None:
    """A leaf that lies to the right of (x, y)."""
    points = [(0, 0), (0.06, -0.09), (0.16, -0.12), (0.24, -0.09), (0.17, 0), (0.08, 0.03)]
    canvas.polygon(moved(points, x, y), LEAF)


def spots(reach: float, step: float) -> Points:
    """Places of spots in staggered rows, all within ``reach`` of (0, 0)."""
    steps = range(-int(reach / step) - 1, int(reach / step) + 2)
    places = [((i + (k % 2) / 2) * step, k * step * 0.85) for k in steps for i in steps]
    return [(u, v) for u, v in places if u * u + v * v <= reach * reach]


def whole_kiwi(canvas: Canvas, x: float, y: float) -> None:
    canvas.polygon(ellipse(x, y, 0.38, 0.29), (135, 100, 60))
    for u, v in spots(0.32, 0.13):
        canvas.line(
            [(x + u, y + 0.75 * v), (x + u + 0.03, y + 0.75 * v + 0.03)], (95, 65, 35), 0.014
        )
    canvas.polygon(ellipse(x + 0.36, y, 0.035, 0.05), (85, 60, 35))


HEART = [
    (
        0.38 * math.sin(a) * (1 - 0.22 * math.cos(a)),
        -0.36 * math.cos(a) + 0.07 * math.sin(a) ** 2 - 0.02,
    )
    for a in (2 * math.pi * k / 40 for k in range(40))
]
BERRY = [(0.95 * u * (1 - 0.5 * max(0, v + 0.05) / 0.4), v) for u, v in HEART]


def whole_strawberry(canvas: Canvas, x: float, y: float) -> None:
    canvas.polygon(moved(BERRY, x, y + 0.05, 1.05), (213, 43, 30))
    for u, v in spots(0.26, 0.14):
        if abs(u) < 0.27 - 0.5 * max(0, v):
            canvas.polygon(ellipse(x + u, y + 0.05 + v, 0.014, 0.024), (250, 215, 50))
    crown(canvas, x, y - 0.28)


def crown(canvas: Canvas, x: float, y: float) -> None:
    """The green leaves on top of a berry."""
    points = [(0, -0.14), (0.06, -0.02), (0.3, 0), (0.15, 0.06), (0.16, 0.17), (0, 0.08)]
    canvas.polygon(moved(points + [(-u, v) for u, v in points[:0:-1]], x, y), LEAF)


APPLE = [
    (0.36 * math.sin(a) * (1.06 - 0.06 * math.cos(2 * a)), -0.33 * math.cos(a) + dent)
    for a in (2 * math.pi * k / 48 for k in range(48))
    for dent in [0.1 * max(0, math.cos(a)) ** 12 - 0.05 * max(0, -math.cos(a)) ** 12]
]


def whole_apple(canvas: Canvas, x: float, y: float) -> None:
    canvas.line([(x, y - 0.2), (x + 0.03, y - 0.38)], STEM, 0.04)
    leaf(canvas, x + 0.03, y - 0.29)
    canvas.polygon(moved(APPLE, x, y + 0.05), (213, 43, 30))
    canvas.polygon(ellipse(x - 0.17, y - 0.05, 0.05, 0.09), (245, 150, 140))


PEAR = [
    ((0.31 - 0.09 * math.cos(a)) * math.sin(a), -0.42 * math.cos(a))
    for a in (2 * math.pi * k / 40 for k in range(40))
]


def whole_avocado(canvas: Canvas, x: float, y: float) -> None:
    canvas.line([(x, y - 0.34), (x, y - 0.44)], STEM, 0.045)
    canvas.polygon(moved(PEAR, x, y), (45, 65, 35))
    for u, v in spots(0.24, 0.12):
        canvas.polygon(outline("circle", x + 0.85 * u, y + 0.08 + v, 0.02), (85, 115, 60))


def whole_dragon_fruit(canvas: Canvas, x: float, y: float) -> None:
    pink, green = (225, 45, 120), (120, 190, 70)
    for u, v in [
        (-0.3, -0.2),
        (0.3, -0.2),
        (-0.38, 0.05),
        (0.38, 0.05),
        (-0.12, -0.4),
        (0.12, -0.4),
    ]:
        base = 0.55
        canvas.polygon(
            [
                (x + u, y + v),
                (x + base * u + 0.06, y + v + 0.14),
                (x + base * u - 0.06, y + v + 0.1),
            ],
            green,
        )
    canvas.polygon(ellipse(x, y + 0.03, 0.29, 0.34), pink)
    for u, v in [(-0.13, -0.1), (0.13, -0.1), (0, 0.06), (-0.17, 0.18), (0.17, 0.18)]:
        canvas.polygon([(x + u, y + v - 0.11), (x + u + 0.06, y + v), (x + u - 0.06, y + v)], green)


def whole_pineapple(canvas: Canvas, x: float, y: float) -> None:
    for u, v in [(-0.2, -0.36), (0.2, -0.36), (-0.1, -0.44), (0.1, -0.44), (0, -0.46)]:
        canvas.polygon([(x + u, y + v), (x + 0.07, y - 0.14), (x - 0.07, y - 0.14)], LEAF)
    canvas.polygon(ellipse(x, y + 0.13, 0.25, 0.3), (225, 165, 40))
    for k in (-2, -1, 0, 1, 2):
        for way in (-1, 1):
            ends = [(0.11 * k - 0.17 * way, -0.17), (0.11 * k + 0.17 * way, 0.17)]
            inside = [(u, v) for u, v in along(ends) if (u / 0.24) ** 2 + (v / 0.29) ** 2 < 1]
            if len(inside) > 1:
                ends = moved([inside[0], inside[-1]], x, y + 0.13)
                canvas.line(ends, (150, 95, 20), 0.02)


def along(ends: Points) -> Points:
    """61 points on a line, half its length beyond both ends."""
    (u, v), (p, q) = ends
    return [(u + t * (p - u), v + t * (q - v)) for t in (k / 30 - 0.5 for k in range(61))]


def whole_pumpkin(canvas: Canvas, x: float, y: float) -> None:
    canvas.line([(x, y - 0.2), (x + 0.02, y - 0.36)], (90, 110, 50), 0.08)
    for u, colour in [(0.26, 0.25), (-0.26, 0.25), (0.15, 0.12), (-0.15, 0.12), (0, 0.0)]:
        shade = mix((240, 125, 20), (0, 0, 0), colour)
        canvas.polygon(ellipse(x + u, y + 0.05, 0.15, 0.3 - 0.15 * abs(u)), shade)


BULB = [
    (
        0.34 * math.sin(a) * (1 - 0.75 * max(0, math.cos(a)) ** 3),
        0.05 - 0.32 * math.cos(a) - 0.1 * max(0, math.cos(a)) ** 8,
    )
    for a in (2 * math.pi * k / 40 for k in range(40))
]


def whole_onion(canvas: Canvas, x: float, y: float) -> None:
    for u in (-0.05, 0, 0.05):
        canvas.line([(x, y + 0.35), (x + u, y + 0.43)], (200, 180, 140), 0.015)
    canvas.polygon(moved(BULB, x, y), (150, 50, 110))
    for k in (-2, -1, 1, 2):
        points = [(u * k * 0.36, v * 0.95) for u, v in BULB[2:18]]
        canvas.line(moved(points[::3], x, y), (205, 130, 175), 0.02)


# --------------------------------------------------------------------------------------------- halves


def rings(canvas: Canvas, x: float, y: float, *layers: tuple[float, Colour]) -> None:
    """Concentric circles, the largest first."""
    for r, colour in layers:
        canvas.polygon(ellipse(x, y, r, r), colour)


def cut_watermelon(canvas: Canvas, x: float, y: float) -> None:
    rings(canvas, x, y, (0.41, (25, 95, 45)), (0.36, (225, 240, 205)), (0.32, (230, 60, 70)))
    for r, n in ((0.12, 4), (0.23, 9)):
        for k in range(n):
            a = 2 * math.pi * k / n
            canvas.polygon(
                ellipse(x + r * math.sin(a), y - r * math.cos(a), 0.018, 0.028), (35, 30, 30)
            )


def cut_orange(canvas: Canvas, x: float, y: float) -> None:
    rings(canvas, x, y, (0.39, (240, 125, 10)), (0.35, (255, 245, 220)))
    for k in range(8):
        a = math.pi * (k + 0.5) / 4
        wedge = [polar(0.05, a), polar(0.31, a - 0.32), polar(0.33, a), polar(0.31, a + 0.32)]
        canvas.polygon(moved(wedge, x, y), (250, 160, 45))


def polar(r: float, angle: float) -> tuple[float, float]:
    """The point at a distance and an angle from (0, 0); 0 is up."""
    return r * math.sin(angle), -r * math.cos(angle)


def cut_kiwi(canvas: Canvas, x: float, y: float) -> None:
    rings(canvas, x, y, (0.37, (120, 85, 50)), (0.34, (125, 185, 50)), (0.24, (155, 205, 85)))
    canvas.polygon(ellipse(x, y, 0.11, 0.11), (245, 245, 210))
    for k in range(14):
        u, v = polar(0.17, 2 * math.pi * k / 14)
        canvas.polygon(ellipse(x + u, y + v, 0.018, 0.018), (30, 30, 25))


def cut_strawberry(canvas: Canvas, x: float, y: float) -> None:
    for scale, colour in ((1.05, (213, 43, 30)), (0.88, (245, 130, 120)), (0.45, (255, 230, 222))):
        canvas.polygon(moved(BERRY, x, y + 0.05, scale), colour)
    crown(canvas, x, y - 0.28)


def cut_apple(canvas: Canvas, x: float, y: float) -> None:
    canvas.line([(x, y - 0.2), (x + 0.03, y - 0.38)], STEM, 0.04)
    canvas.polygon(moved(APPLE, x, y + 0.05), (213, 43, 30))
    canvas.polygon(moved(APPLE, x, y + 0.05, 0.88), CREAM)
    canvas.polygon(outline("heart", x, y + 0.06, 0.15), (225, 205, 150))
    for u in (-0.05, 0.05):
        canvas.polygon(ellipse(x + u, y + 0.05, 0.025, 0.05), (75, 45, 25))


def cut_avocado(canvas: Canvas, x: float, y: float) -> None:
    for scale, colour in ((1.0, (45, 65, 35)), (0.9, (135, 180, 70)), (0.74, (230, 230, 140))):
        canvas.polygon(moved(PEAR, x, y, scale), colour)
    canvas.polygon(ellipse(x, y + 0.13, 0.13, 0.13), (130, 80, 40))
    canvas.polygon(ellipse(x - 0.04, y + 0.09, 0.035, 0.035), (185, 135, 90))


def cut_dragon_fruit(canvas: Canvas, x: float, y: float) -> None:
    canvas.polygon(ellipse(x, y, 0.36, 0.41), (225, 45, 120))
    canvas.polygon(ellipse(x, y, 0.29, 0.34), (252, 248, 250))
    for u, v in spots(0.25, 0.11):
        canvas.polygon(ellipse(x + u, y + 1.15 * v, 0.017, 0.017), (35, 35, 40))


def cut_pineapple(canvas: Canvas, x: float, y: float) -> None:
    rings(canvas, x, y, (0.4, (160, 105, 30)), (0.355, (250, 215, 80)))
    for k in range(12):
        spoke = [polar(0.15, math.pi * k / 6), polar(0.31, math.pi * k / 6)]
        canvas.line(moved(spoke, x, y), (225, 170, 40), 0.025)
    rings(canvas, x, y, (0.12, (255, 240, 165)))


def cut_pumpkin(canvas: Canvas, x: float, y: float) -> None:
    canvas.line([(x, y - 0.2), (x + 0.02, y - 0.36)], (90, 110, 50), 0.08)
    canvas.polygon(ellipse(x, y + 0.05, 0.4, 0.31), (225, 110, 15))
    canvas.polygon(ellipse(x, y + 0.05, 0.36, 0.27), (250, 190, 80))
    canvas.polygon(ellipse(x, y + 0.05, 0.23, 0.17), (215, 120, 30))
    for u, v in [(-0.13, 0), (-0.05, -0.07), (0.05, 0.07), (0.13, 0), (-0.05, 0.07), (0.05, -0.07)]:
        canvas.polygon(ellipse(x + u, y + 0.05 + v, 0.025, 0.035), (255, 240, 200))


def cut_onion(canvas: Canvas, x: float, y: float) -> None:
    canvas.polygon(moved(BULB, x, y), (150, 50, 110))
    for k, scale in enumerate((0.9, 0.76, 0.62, 0.48, 0.34, 0.2)):
        colour = (250, 235, 245) if k % 2 == 0 else (185, 95, 150)
        canvas.polygon(moved([(u, v - 0.05) for u, v in BULB], x, y + 0.05, scale), colour)


# --------------------------------------------------------------------------------------------- skins


@cache
def skin(fruit: str, size: int) -> Image.Image:
    """A large canvas full of the skin, drawn once."""
    canvas = Canvas(size, CREAM)
    FRUITS[fruit][-1](canvas)
    return canvas.image


def skin_watermelon(canvas: Canvas) -> None:
    canvas.polygon(ALL, (115, 185, 85))
    for k in range(-1, 2):
        edge = [(0.07 * math.sin(4 * math.pi * t / 16), t / 16) for t in range(17)]
        middle = 0.25 + 0.5 * k
        left = [(middle - 0.12 + u, v) for u, v in edge]
        canvas.polygon(left + [(middle + 0.12 - u, v) for u, v in edge[::-1]], (25, 95, 45))


ALL = rectangle(0, 0, 1, 1)


def rows(step: float) -> Points:
    """Places in staggered rows over the whole canvas."""
    n = round(1 / step)
    return [((i + (k % 2) / 2) * step, (k + 0.5) * step) for k in range(n) for i in range(n + 1)]


def skin_orange(canvas: Canvas) -> None:
    canvas.polygon(ALL, (245, 140, 20))
    for u, v in rows(1 / 6):
        canvas.polygon(ellipse(u, v, 0.03, 0.03), (200, 100, 5))


def skin_kiwi(canvas: Canvas) -> None:
    canvas.polygon(ALL, (140, 105, 65))
    for u, v in rows(1 / 6):
        canvas.line([(u - 0.05, v - 0.04), (u + 0.05, v + 0.04)], (90, 60, 35), 0.022)


def skin_strawberry(canvas: Canvas) -> None:
    canvas.polygon(ALL, (213, 43, 30))
    for u, v in rows(1 / 4):
        canvas.polygon(ellipse(u, v, 0.05, 0.07), (150, 20, 20))
        canvas.polygon(ellipse(u, v, 0.032, 0.052), (250, 215, 50))


def skin_apple(canvas: Canvas) -> None:
    canvas.polygon(ALL, (205, 35, 35))
    for u, v in rows(1 / 4):
        canvas.line([(u, v - 0.08), (u, v + 0.08)], (240, 150, 70), 0.03)


def skin_avocado(canvas: Canvas) -> None:
    canvas.polygon(ALL, (40, 60, 35))
    for u, v in rows(1 / 4):
        canvas.polygon(ellipse(u, v, 0.085, 0.085), (75, 105, 55))
        canvas.polygon(ellipse(u - 0.02, v - 0.02, 0.045, 0.045), (115, 145, 80))


def skin_dragon_fruit(canvas: Canvas) -> None:
    canvas.polygon(ALL, (225, 45, 120))
    for u, v in rows(1 / 4):
        canvas.polygon([(u, v - 0.12), (u + 0.08, v + 0.06), (u - 0.08, v + 0.06)], (120, 190, 70))


def skin_pineapple(canvas: Canvas) -> None:
    canvas.polygon(ALL, (150, 95, 20))
    for u, v in [(i / 4 + (k % 2) / 8, k / 8) for k in range(9) for i in range(-1, 5)]:
        canvas.polygon(outline("diamond", u, v, 0.115), (228, 170, 45))
        canvas.polygon(ellipse(u, v, 0.022, 0.022), (120, 75, 20))


def skin_pumpkin(canvas: Canvas) -> None:
    canvas.polygon(ALL, (240, 125, 20))
    for k in range(3):
        u = (k + 0.5) / 3
        canvas.polygon([(u - 0.05, 0), (u + 0.05, 0), (u + 0.05, 1), (u - 0.05, 1)], (190, 85, 10))
        canvas.polygon([(u - 0.17, 0), (u - 0.12, 0), (u - 0.12, 1), (u - 0.17, 1)], (252, 165, 75))


def skin_onion(canvas: Canvas) -> None:
    canvas.polygon(ALL, (150, 50, 110))
    for k in range(6):
        u = (k + 0.5) / 6
        canvas.line([(u - 0.02, 0), (u + 0.02, 0.5), (u - 0.02, 1)], (210, 135, 180), 0.03)


# How each looks from outside, cut in two, and from very near.
FRUITS = {
    "watermelon": (whole_watermelon, cut_watermelon, skin_watermelon),
    "orange": (whole_orange, cut_orange, skin_orange),
    "kiwi": (whole_kiwi, cut_kiwi, skin_kiwi),
    "strawberry": (whole_strawberry, cut_strawberry, skin_strawberry),
    "apple": (whole_apple, cut_apple, skin_apple),
    "avocado": (whole_avocado, cut_avocado, skin_avocado),
    "dragon fruit": (whole_dragon_fruit, cut_dragon_fruit, skin_dragon_fruit),
    "pineapple": (whole_pineapple, cut_pineapple, skin_pineapple),
    "pumpkin": (whole_pumpkin, cut_pumpkin, skin_pumpkin),
    "onion": (whole_onion, cut_onion, skin_onion),
}
