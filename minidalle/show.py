"""Pictures for people: titled grids with captions, alt text, progress bars.  (All chapters)"""

import base64
import io
import math
import os
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL = 192  # pixels on a side at which one picture of a grid is shown
MARGIN = 10
INK, PAPER = (40, 40, 45), (255, 255, 255)
BLUE = "#0072B2"  # Okabe and Ito's


def quiet() -> bool:
    """Whether progress bars are off: the environment says ``MINIDALLE_QUIET=1``."""
    return os.environ.get("MINIDALLE_QUIET") == "1"


def in_notebook() -> bool:
    """Whether this code runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Jupyter's, Colab's


class Curves:
    """One figure of a log's curves that redraws itself in a notebook's cell; elsewhere it does nothing."""

    def __init__(self):
        self.handle = None

    def draw(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Show the figures of the last line's stage over its steps. lines: as in log.jsonl."""
        if not in_notebook():
            return
        from IPython.display import display

        figure = curves(lines)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)


def curves(lines: Sequence[Mapping[str, object]]) -> "Figure":
    """A small curve for every figure of the last line's stage, over steps."""
    from matplotlib.figure import Figure

    stage = lines[-1]["stage"]
    rows = [line for line in lines if line["stage"] == stage]
    names = [name for name in rows[-1] if name not in ("stage", "step", "seconds")]
    columns = min(4, max(1, len(names)))
    height = 1.6 * math.ceil(len(names) / columns) + 0.4
    figure = Figure(
        figsize=(7, height), dpi=120, layout="constrained"
    )  # pyplot would keep it for ever
    figure.suptitle(f"{stage} · step {rows[-1]['step']}", fontsize=10)
    for k, name in enumerate(names):
        axes = figure.add_subplot(math.ceil(len(names) / columns), columns, k + 1)
        points = [(row["step"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), ".-", color=BLUE, linewidth=1, markersize=4)
        axes.set_title(name, fontsize=8, loc="left")
        axes.set_xlabel("steps", fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def enlarge(picture: np.ndarray, side: int = CELL) -> Image.Image:
    """A uint8 picture (H, W, 3) as a square of about ``side`` pixels in which a pixel is a pixel."""
    factor = max(1, round(side / picture.shape[0]))
    return Image.fromarray(picture).resize(
        (picture.shape[1] * factor, picture.shape[0] * factor), Image.Resampling.NEAREST
    )


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: unlike Pillow's own font it has é, ×, τ, β and →."""
    import matplotlib

    return ImageFont.truetype(
        Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size
    )


def wrapped(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """The text in lines of at most ``width`` pixels, broken between words where that is possible."""
    for characters in range(max(1, min(len(text), width // 3)), 0, -1):
        lines = textwrap.wrap(text, characters) or [""]
        if all(font.getlength(line) <= width for line in lines):
            break
    return lines


def grid(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    title: str = "",
    columns: int | None = None,
) -> Image.Image:
    """Pictures (uint8, all of one size) in rows, each over its caption, under a title.

    columns defaults to a grid about as wide as it is high. Raises ValueError without pictures.
    """
    if not len(pictures) or len(pictures) != len(captions):
        raise ValueError(
            f"{len(pictures)} pictures but {len(captions)} captions; a grid needs one caption for each"
        )
    columns = columns or min(len(pictures), max(1, math.ceil(math.sqrt(len(pictures)))))
    tiles = [enlarge(picture) for picture in pictures]
    side = tiles[0].width
    small, large = font(14), font(18)
    words = [wrapped(caption, side, small) for caption in captions]
    below = 20 * max(len(lines) for lines in words) + MARGIN
    width = columns * (side + MARGIN) + MARGIN
    heading = wrapped(title, width - 2 * MARGIN, large) if title else []
    top = 26 * len(heading) + MARGIN
    rows = math.ceil(len(tiles) / columns)
    sheet = Image.new("RGB", (width, top + rows * (side + below) + MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), "\n".join(heading), fill=INK, font=large)
    for k, (tile, lines) in enumerate(zip(tiles, words, strict=True)):
        x = MARGIN + (k % columns) * (side + MARGIN)
        y = top + MARGIN + (k // columns) * (side + below)
        sheet.paste(tile, (x, y))
        pen.text((x, y + side + 4), "\n".join(lines), fill=INK, font=small)
    return sheet


@dataclass(frozen=True, eq=False)
class Drawing:
    """Pictures that a model drew, with their captions; shows itself in a notebook.

    pictures: uint8 (n, H, W, 3). captions: n strings. tokens: the image tokens (n, N).
    """

    pictures: np.ndarray
    captions: tuple[str, ...]
    tokens: np.ndarray
    title: str = ""

    @property
    def alt(self) -> str:
        """Alt text: what was asked for, and how often."""
        asked = list(dict.fromkeys(self.captions))
        each = "; ".join(f"{self.captions.count(c)} for the caption “{c}”" for c in asked)
        return f"{len(self.captions)} picture{'s' * (len(self.captions) > 1)} drawn by the model: {each}"

    def grid(self, columns: int | None = None) -> Image.Image:
        """The pictures, enlarged, over their captions."""
        return grid(self.pictures, self.captions, self.title, columns)

    def save(self, path: str | Path) -> Path:
        """Write the grid as a PNG, all of it or nothing. Raises OSError where that is impossible."""
        path = Path(path)
        write_atomically(path, lambda file: self.grid().save(file, "PNG"))
        return path

    def __repr__(self) -> str:
        return f"<{self.alt}>"

    def _repr_html_(self) -> str:
        return png_html(self.grid(), self.alt)


def png_html(image: Image.Image, alt: str) -> str:
    """An <img> that carries its PNG and its alt text with it."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{image.width}">'
