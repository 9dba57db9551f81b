"""Creatures: an animal with a mood, something to wear in a colour, or a part of another animal.

The paper's capability: illustrations of animals, chimeras among them. What the caption leaves open stays
plain: a calm face, nothing worn, the animal's own ears.
"""

import random

import numpy as np

from .base import Family, Scene, Slots
from .canvas import PALETTE, Canvas, Colour, Place, arc, mix, rectangle

ANIMAL_WORDS = {
    "cat": ("cat",),
    "dog": ("dog",),
    "rabbit": ("rabbit", "bunny"),
    "frog": ("frog",),
    "penguin": ("penguin",),
    "pig": ("pig",),
    "panda": ("panda",),
}
MOOD_WORDS = {
    "calm": ("",),
    "happy": ("happy", "cheerful"),
    "sad": ("sad", "crying"),
    "angry": ("angry", "furious"),
    "surprised": ("surprised", "astonished"),
    "sleepy": ("sleepy", "sleeping"),
}
WORN = ("nothing", "scarf", "hat", "crown", "bow tie")
PART_WORDS = {
    "own": (),
    "rabbit ears": ("rabbit ears", "the ears of a rabbit"),
    "antlers": ("antlers", "the antlers of a deer"),
    "horn": ("a unicorn horn", "the horn of a unicorn"),
    "wings": ("butterfly wings", "the wings of a butterfly"),
}
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
NUDGES = 4

FUR: dict[str, Colour] = {
    "cat": (238, 150, 70),
    "dog": (205, 160, 110),
    "rabbit": (190, 182, 200),
    "frog": (112, 186, 84),
    "penguin": (48, 56, 84),
    "pig": (245, 168, 184),
    "panda": (246, 246, 244),
}
BACKDROPS: tuple[Colour, ...] = ((206, 228, 240), (240, 228, 200), (212, 234, 212))
INK, WHITE, MOUTH = (34, 30, 38), (252, 252, 252), (150, 40, 50)


class Creatures(Family):
    """Slots say what is to be seen; a colour is there only where something is worn.

    Something worn and a borrowed part never meet: a hat on antlers could not be read.
    """

    name = "creatures"
    slots = {
        "animal": tuple(ANIMAL_WORDS),
        "mood": tuple(MOOD_WORDS),
        "worn": WORN,
        "colour": COLOURS,
        "part": tuple(PART_WORDS),
    }
    flaws = ("no face",)
    held_out = (
        ("cat", "sad"),
        ("dog", "surprised"),
        ("rabbit", "angry"),
        ("frog", "happy"),
        ("penguin", "sleepy"),
        ("pig", "scarf"),
        ("panda", "hat"),
        ("frog", "crown"),
        ("rabbit", "bow tie"),
        ("cat", "antlers"),
        ("dog", "wings"),
        ("panda", "rabbit ears"),
        ("penguin", "horn"),
    )

    def is_held_out(self, slots: Slots) -> bool:
        shown = (slots["mood"], slots["worn"], slots["part"])
        return any((slots["animal"], each) in self.held_out for each in shown)

    def sample(self, rng: random.Random) -> Scene:
        slots = {"animal": rng.choice(self.slots["animal"]), "mood": "calm"}
        slots |= {"worn": "nothing", "part": "own"}
        kind = rng.choice(("mood", "worn", "part"))
        if kind == "worn":
            slots |= {"worn": rng.choice(WORN[1:]), "colour": rng.choice(COLOURS)}
        elif kind == "part":
            parts = [
                part for part in self.slots["part"][1:] if not part.startswith(slots["animal"])
            ]
            slots["part"] = rng.choice(parts)
        # Every scene of the first kind says a mood or nothing at all; half of the others say one too.
        if kind == "mood" or rng.random() < 0.5:
            slots["mood"] = rng.choice(self.slots["mood"])
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKDROPS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        s = scene.slots
        extras = [""]
        if s["worn"] != "nothing":
            thing = f"{s['colour']} {s['worn']}"
            extras = [f"wearing {an(thing)}", f"in {an(thing)}"]
        elif s["part"] != "own":
            extras = [f"with {words}" for words in PART_WORDS[s["part"]]]
        phrasings = []
        for mood in MOOD_WORDS[s["mood"]]:
            for noun in ANIMAL_WORDS[s["animal"]]:
                for extra in extras:
                    creature = an(f"{mood} {noun} {extra}".strip())
                    phrasings += [creature, f"a drawing of {creature}"]
        return [" ".join(phrase.split()) for phrase in phrasings]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        return self._paint(scene, size)

    def flawed(self, scene: Scene, flaw: str, size: int, rng: random.Random) -> np.ndarray:
        return self._paint(scene, size, faceless=True)

    def _paint(self, scene: Scene, size: int, faceless: bool = False) -> np.ndarray:
        backdrop, dx, dy = scene.layout
        s = scene.slots
        canvas = Canvas(size, BACKDROPS[backdrop])
        place = Place(canvas, 0.5 + 0.014 * dx, 0.53 + 0.007 * dy, 0.28)
        animal, fur = s["animal"], FUR[s["animal"]]
        if s["part"] == "wings":
            wings(place)
        body(place, animal, fur)
        if s["part"] == "rabbit ears":
            rabbit_ears(place, fur)
        elif animal in EARS:
            EARS[animal](place, fur)
        if s["part"] == "antlers":
            antlers(place)
        head(place, animal, fur)
        if s["part"] == "horn":
            horn(place)
        if not faceless:
            face(place, animal, s["mood"])
        if s["worn"] != "nothing":
            WEAR[s["worn"]](place, PALETTE[s["colour"]])
        return canvas.picture()


def an(words: str) -> str:
    """The words after the article that fits: "an orange hat"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# --------------------------------------------- the animal: its head is about a unit circle around (0, 0)


def body(place: Place, animal: str, fur: Colour) -> None:
    coat = INK if animal == "panda" else fur
    place.oval(0, 1.75, 0.85, 1, coat)
    if animal == "penguin":
        place.oval(0, 1.85, 0.58, 0.85, WHITE)
    else:
        place.oval(0, 1.85, 0.5, 0.7, mix(fur, WHITE, 0.5))


def head(place: Place, animal: str, fur: Colour) -> None:
    place.oval(0, 0, 1.08, 0.92, fur)
    if animal == "penguin":
        for x in (-0.38, 0.38):
            place.oval(x, -0.08, 0.46, 0.52, WHITE)
        place.oval(0, 0.4, 0.74, 0.44, WHITE)
    elif animal == "panda":
        for x, tilt in ((-0.42, 30), (0.42, -30)):
            place.oval(x, -0.1, 0.36, 0.46, (60, 56, 64), tilt)
    elif animal == "dog":
        place.oval(0, 0.42, 0.55, 0.45, mix(fur, WHITE, 0.6))
    elif animal == "frog":
        place.oval(0, 0.42, 0.85, 0.46, mix(fur, WHITE, 0.4))


def cat_ears(place: Place, fur: Colour) -> None:
    for side in (-1, 1):
        place.polygon([(side * 1.02, -1.3), (side * 1.05, -0.2), (side * 0.25, -0.75)], fur)
        place.polygon(
            [(side * 0.92, -1.05), (side * 0.9, -0.4), (side * 0.45, -0.7)], (250, 200, 180)
        )


def dog_ears(place: Place, fur: Colour) -> None:
    for side in (-1, 1):
        place.oval(side * 1.08, 0.1, 0.36, 0.8, (120, 78, 50), -side * 12)


def rabbit_ears(place: Place, fur: Colour) -> None:
    for side in (-1, 1):
        place.oval(side * 0.6, -1.06, 0.3, 0.78, fur, side * 18)
        place.oval(side * 0.61, -1.04, 0.15, 0.56, (250, 180, 196), side * 18)


def frog_eyes(place: Place, fur: Colour) -> None:
    for x in (-0.68, 0.68):
        place.oval(x, -0.72, 0.4, 0.4, fur)


def pig_ears(place: Place, fur: Colour) -> None:
    for side in (-1, 1):
        ear = [(side * 1.15, -1), (side * 1.1, -0.15), (side * 0.3, -0.8)]
        place.polygon(ear, mix(fur, (200, 80, 110), 0.45))


def panda_ears(place: Place, fur: Colour) -> None:
    for x in (-0.8, 0.8):
        place.oval(x, -0.75, 0.38, 0.38, (50, 46, 54))


EARS = {
    "cat": cat_ears,
    "dog": dog_ears,
    "rabbit": rabbit_ears,
    "frog": frog_eyes,
    "pig": pig_ears,
    "panda": panda_ears,
}


# ---------------------------------------------------------------------------------------------- the face


def face(place: Place, animal: str, mood: str) -> None:
    """Eyes, brows and mouth say the mood, nose and whiskers the animal."""
    x, y = (0.68, -0.74) if animal == "frog" else (0.42, -0.12)
    dark = WHITE if animal == "panda" else INK
    for side in (-1, 1):
        eye(place, side * x, y, side, mood, dark)
    nose(place, animal)
    mouth(place, mood)
    if mood == "sad":
        place.polygon([(-0.66, 0.08), (-0.46, 0.5), (-0.66, 0.72), (-0.86, 0.5)], (60, 140, 235))
    if mood == "sleepy":
        for u, v, r in ((0.92, -1.02, 0.17), (1.28, -1.5, 0.23)):
            z = [(u - r, v - r), (u + r, v - r), (u - r, v + r), (u + r, v + r)]
            place.line(z, (60, 70, 150), 0.12)


def eye(place: Place, x: float, y: float, side: int, mood: str, dark: Colour) -> None:
    if mood == "happy":
        place.line(arc(x, y + 0.14, 0.23, 0.28, -90, 90), dark, 0.15)
    elif mood == "sleepy":
        place.line(arc(x, y - 0.05, 0.23, 0.2, 90, 270), dark, 0.15)
    elif mood == "surprised":
        place.oval(x, y, 0.38, 0.4, INK)
        place.oval(x, y, 0.3, 0.32, WHITE)
        place.oval(x, y, 0.14, 0.14, INK)
    else:
        place.oval(x, y, 0.17, 0.2, dark)
    if mood == "angry":
        place.line([(x + side * 0.3, y - 0.48), (x - side * 0.28, y - 0.18)], INK, 0.2)
    elif mood == "sad":
        place.line([(x + side * 0.28, y - 0.25), (x - side * 0.2, y - 0.48)], INK, 0.14)


def nose(place: Place, animal: str) -> None:
    if animal == "penguin":
        place.polygon([(-0.22, 0.12), (0.22, 0.12), (0, 0.42)], (250, 150, 30))
    elif animal == "pig":
        place.oval(0, 0.2, 0.36, 0.24, (222, 108, 136))
        for x in (-0.13, 0.13):
            place.oval(x, 0.2, 0.06, 0.09, (130, 50, 70))
    elif animal == "cat":
        place.polygon([(-0.12, 0.16), (0.12, 0.16), (0, 0.3)], (200, 80, 90))
        for side in (-1, 1):
            for v in (0.2, 0.42):
                place.line([(side * 0.62, 0.25), (side * 1.2, v)], INK, 0.06)
    elif animal != "frog":
        place.oval(0, 0.2, 0.15, 0.11, INK)


def mouth(place: Place, mood: str) -> None:
    if mood == "happy":
        place.polygon(arc(0, 0.44, 0.46, 0.42, 90, 270), MOUTH)
    elif mood == "surprised":
        place.oval(0, 0.64, 0.19, 0.23, MOUTH)
    elif mood == "sad":
        place.line(arc(0, 0.78, 0.3, 0.24, -80, 80), INK, 0.13)
    elif mood == "angry":
        place.polygon(rectangle(-0.38, 0.46, 0.38, 0.74), INK)
        place.polygon(rectangle(-0.3, 0.54, 0.3, 0.66), WHITE)
    else:
        place.line([(-0.18, 0.58), (0.18, 0.58)], INK, 0.11)


# -------------------------------------------------------------------------- borrowed parts, things to wear


def antlers(place: Place) -> None:
    for side in (-1, 1):
        for points in ([(0.3, -0.7), (0.55, -1.2), (0.6, -1.75)], [(0.55, -1.2), (1.0, -1.5)]):
            place.line([(side * u, v) for u, v in points], (110, 70, 40), 0.17)


def horn(place: Place) -> None:
    place.polygon([(-0.2, -0.68), (0.2, -0.68), (0, -1.8)], (250, 214, 80))
    for v in (-0.95, -1.2, -1.45):
        reach = 0.2 * (1.8 + v) / 1.12
        place.line([(-reach, v), (reach, v - 0.12)], (214, 140, 30), 0.07)


def wings(place: Place) -> None:
    for side in (-1, 1):
        place.oval(side * 1.2, 0.6, 0.65, 0.6, (170, 90, 200), -side * 35)
        place.oval(side * 1.05, 1.35, 0.52, 0.42, (240, 130, 190), side * 30)
        place.oval(side * 1.38, 0.55, 0.24, 0.22, (252, 226, 110))


def scarf(place: Place, fill: Colour) -> None:
    place.polygon(rectangle(0.25, 1, 0.65, 1.75), mix(fill, INK, 0.25))
    place.oval(0, 1.02, 0.85, 0.26, fill)


def hat(place: Place, fill: Colour) -> None:
    place.polygon(rectangle(-0.4, -1.65, 0.4, -0.7), fill)
    place.polygon(rectangle(-0.4, -1.05, 0.4, -0.85), mix(fill, INK, 0.5))
    place.polygon(rectangle(-0.7, -0.87, 0.7, -0.66), fill)


def crown(place: Place, fill: Colour) -> None:
    spikes = [(-0.55, -1.45), (-0.26, -1.1), (0, -1.6), (0.26, -1.1), (0.55, -1.45)]
    place.polygon([*spikes, (0.45, -0.66), (-0.45, -0.66)], fill)
    for u, v in spikes[::2]:
        place.oval(u, v, 0.11, 0.11, fill)


def bow_tie(place: Place, fill: Colour) -> None:
    for side in (-1, 1):
        place.polygon([(0, 1.12), (side * 0.75, 0.78), (side * 0.75, 1.48)], fill)
    place.oval(0, 1.12, 0.2, 0.2, mix(fill, INK, 0.4))


WEAR = {"scarf": scarf, "hat": hat, "crown": crown, "bow tie": bow_tie}

FAMILY = Creatures()
