"""Emoji: the glyphs of a real colour font with their Unicode names for captions.  (Chapter 14)

The font's bitmaps are of one size, 109, and the names are those of Unicode's ``emoji-test.txt``. Variants
that differ in skin tone alone are left out: they are half of all, and would be half of what is learned.
"""

import hashlib
import re
from functools import cached_property, lru_cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from .base import Skipped, digest, split_of
from .stored import Pictures

FONTS = (
    Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"),  # Debian, Ubuntu, Colab
    Path("/usr/share/fonts/noto/NotoColorEmoji.ttf"),  # Arch
    Path("/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf"),  # Fedora
)
NAMES = (
    Path("/usr/share/unicode/emoji/emoji-test.txt"),  # Debian, Ubuntu, Colab, Arch
    Path("/usr/share/unicode/emoji-test.txt"),  # Fedora
)
INSTALL = "install both with: apt-get install fonts-noto-color-emoji unicode-data"
LINE = re.compile(r"^([0-9A-F ]+?) *; fully-qualified +# \S+ E[\d.]+ (.+)$")
SKIN = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
BITMAP, BOARD = 109, 136  # the font's only size; pixels of its widest glyph
NOT_IN_FONT, NEEDS_RAQM = "not in the font", "of several code points, for which Pillow needs raqm"


class Emoji(Pictures):
    """All emoji of the font, on white.

    size: pixels on a side. split: train or test, by a hash of the name. font, names: the files, looked for in
    the usual places by default. Raises FileNotFoundError that says how to install them.
    """

    label = "emoji"

    def __init__(
        self,
        size: int,
        split: str = "train",
        font: Path | None = None,
        names: Path | None = None,
    ):
        super().__init__(size, split)
        self.font_file = first_file(FONTS if font is None else (font,), "the emoji font")
        self.names_file = first_file(NAMES if names is None else (names,), "the names of the emoji")
        found = emoji_of(self.names_file.read_text("utf-8"))
        mine = [(name, glyph) for name, glyph in found.items() if split_of(name) == split]
        self.names, self.glyphs = [], []
        for name, glyph in mine:
            fault = self._fault(glyph)
            if fault:
                self.skipped.append(Skipped(name, fault))
            else:
                self.names.append(name)
                self.glyphs.append(glyph)
        if not found or not self.names:
            raise ValueError(f"{self.names_file} names no emoji of {self.font_file}; {INSTALL}")
        self.texts = [(name,) for name in self.names]

    def _fault(self, glyph: str) -> str | None:
        if len(glyph) > 1 and not features.check("raqm"):
            return NEEDS_RAQM
        _, top, width, bottom = open_font(self.font_file).getbbox(glyph)
        one = bottom > top and width <= BOARD  # an unknown sequence is empty or falls apart
        return None if one else NOT_IN_FONT

    def open(self, index: int) -> Image.Image:
        """The emoji at the font's own size, on a white square."""
        return drawn(self.font_file, self.glyphs[index])

    @cached_property
    def fingerprint(self) -> str:
        """Of both files, the size and the split."""
        files = [
            hashlib.sha256(f.read_bytes()).hexdigest() for f in (self.font_file, self.names_file)
        ]
        return digest("emoji", files, self.size, self.split, self.names)


def first_file(places: tuple[Path, ...], what: str) -> Path:
    """The first of the places where there is a file; FileNotFoundError that says how to install it."""
    for path in places:
        if path.is_file():
            return path
    where = " or ".join(map(str, places))
    raise FileNotFoundError(f"{what} is missing, looked for at {where}; {INSTALL}")


def emoji_of(table: str) -> dict[str, str]:
    """Name → sequence of code points, from the text of ``emoji-test.txt``, without skin tones."""
    found = {}
    for line in table.splitlines():
        if match := LINE.match(line):
            glyph = "".join(chr(int(code, 16)) for code in match[1].split())
            if not SKIN & set(glyph):
                found[match[2]] = glyph
    return found


@lru_cache
def open_font(path: Path) -> ImageFont.FreeTypeFont:
    """The font at the size of its bitmaps. Raises ValueError if it is no such font."""
    try:
        return ImageFont.truetype(path, BITMAP)
    except OSError as error:
        raise ValueError(
            f"{path} is no font with bitmaps of {BITMAP}: {error}; {INSTALL}"
        ) from error


@lru_cache(maxsize=2048)  # all of them, about 100 MB: drawing takes longer than everything after it
def drawn(path: Path, glyph: str) -> Image.Image:
    """A glyph in the middle of a white square."""
    font = open_font(path)
    board = Image.new("RGB", (BOARD, BOARD), "white")
    left, top, right, bottom = font.getbbox(glyph)
    place = ((BOARD - left - right) / 2, (BOARD - top - bottom) / 2)
    ImageDraw.Draw(board).text(place, glyph, font=font, embedded_color=True)
    return board
