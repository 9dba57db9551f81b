"""Lettering: a sign with a word of three letters on it.

The paper's capability: rendering text. The letters are strokes of our own, so no font is needed and
every machine draws the same ones.
"""

import random

import numpy as np

from .base import Family, Scene, Slots
from .canvas import BACKGROUNDS, PALETTE, Canvas, mix, rectangle

WORDS = tuple(
    """ant bag bat bed bee box boy bus car cat cow cup dog egg fan fig fly fox hat hen hot ice jam jar
    key kid leg lip map mud net nut oak owl pen pie pig pot red rug sea sky sun tea toy van wax win
    yes zoo""".split()
)
BOARDS = ("red", "yellow", "green", "blue", "purple", "pink")
NUDGES = 4

# Strokes on a box that is 4 wide and 6 high, y downwards; a letter is a list of poly-lines.
STROKES = {
    "a": ["06 20 46", "14 34"],
    "b": ["00 06 36 45 44 33 03", "33 42 41 30 00"],
    "c": ["41 30 10 01 05 16 36 45"],
    "d": ["00 06 26 44 42 20 00"],
    "e": ["40 00 06 46", "03 33"],
    "f": ["40 00 06", "03 33"],
    "g": ["41 30 10 01 05 16 36 45 43 23"],
    "h": ["00 06", "40 46", "03 43"],
    "i": ["10 30", "20 26", "16 36"],
    "j": ["20 40", "30 35 26 16 05"],
    "k": ["00 06", "40 03 46"],
    "l": ["00 06 46"],
    "m": ["06 00 23 40 46"],
    "n": ["06 00 46 40"],
    "o": ["10 30 41 45 36 16 05 01 10"],
    "p": ["06 00 30 41 42 33 03"],
    "r": ["06 00 30 41 42 33 03", "23 46"],
    "s": ["41 30 10 01 02 13 33 44 45 36 16 05"],
    "t": ["00 40", "20 26"],
    "u": ["00 05 16 36 45 40"],
    "v": ["00 26 40"],
    "w": ["00 16 23 36 40"],
    "x": ["00 46", "40 06"],
    "y": ["00 23 40", "23 26"],
    "z": ["00 40 06 46"],
}


class Lettering(Family):
    """Every word is missing on the board of one colour in training, and asked for in zero-shot."""

    name = "lettering"
    slots = {
        "letter 1": tuple(sorted({word[0] for word in WORDS})),
        "letter 2": tuple(sorted({word[1] for word in WORDS})),
        "letter 3": tuple(sorted({word[2] for word in WORDS})),
        "board": BOARDS,
    }
    flaws = ("one letter missing",)
    held_out = tuple((word, BOARDS[k % len(BOARDS)]) for k, word in enumerate(WORDS))

    def is_held_out(self, slots: Slots) -> bool:
        return (word_of(slots), slots["board"]) in self.held_out

    def sample(self, rng: random.Random) -> Scene:
        slots = {f"letter {k}": letter for k, letter in enumerate(rng.choice(WORDS), start=1)}
        slots["board"] = rng.choice(BOARDS)
        nudges = rng.randint(-NUDGES, NUDGES), rng.randint(-NUDGES, NUDGES)
        return Scene(self.name, slots, (rng.randrange(len(BACKGROUNDS)), *nudges))

    def captions(self, scene: Scene) -> list[str]:
        word, board = word_of(scene.slots), scene.slots["board"]
        return [
            f"a {board} sign that says {word}",
            f"the word {word} on a {board} sign",
            f"a {board} sign with the word {word}",
            f"a {board} board that reads {word}",
        ]

    def draw(self, scene: Scene, size: int) -> np.ndarray:
        return self._paint(scene, size)

    def flawed(self, scene: Scene, flaw: str, size: int, rng: random.Random) -> np.ndarray:
        return self._paint(scene, size, rng.randrange(3))

    def _paint(self, scene: Scene, size: int, missing: int | None = None) -> np.ndarray:
        """The picture. missing: which letter is left out, if any."""
        background, dx, dy = scene.layout
        board = PALETTE[scene.slots["board"]]
        canvas = Canvas(size, BACKGROUNDS[background])
        x, y = 0.5 + 0.008 * dx, 0.42 + 0.014 * dy
        canvas.polygon(rectangle(x - 0.03, y, x + 0.03, 0.97), (120, 85, 60))
        canvas.polygon(
            rectangle(x - 0.42, y - 0.23, x + 0.42, y + 0.23), mix(board, (0, 0, 0), 0.4)
        )
        canvas.polygon(rectangle(x - 0.395, y - 0.205, x + 0.395, y + 0.205), board)
        ink = (30, 30, 35) if sum(board) > 420 else (255, 255, 255)
        for k, letter in enumerate(word_of(scene.slots)):
            if k == missing:
                continue
            draw_letter(canvas, letter, x - 0.315 + 0.235 * k, y - 0.12, ink)
        return canvas.picture()


def word_of(slots: Slots) -> str:
    """The word on the sign."""
    return "".join(slots[f"letter {k}"] for k in (1, 2, 3))


def draw_letter(canvas: Canvas, letter: str, left: float, top: float, ink: tuple[int, int, int]):
    """One letter, 0.16 wide and 0.24 high, its box's corner at (left, top)."""
    for stroke in STROKES[letter]:
        points = [(left + 0.04 * int(p[0]), top + 0.04 * int(p[1])) for p in stroke.split()]
        canvas.line(points, ink, 0.04)


FAMILY = Lettering()
