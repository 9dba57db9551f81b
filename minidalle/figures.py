"""Figures of the chapters, each with its alt text: plots, rows, token grids, masks, sliders.  (All chapters)

Everything here returns something that shows itself as the last expression of a cell. The HTML that it
makes works without a server: in JupyterLab, in Colab, and on the static page.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .show import grid, png_html, quiet

if TYPE_CHECKING:  # matplotlib takes a second to import, and only figures need it
    from matplotlib.figure import Figure
    from torch import Tensor

# Okabe and Ito's colours, which stay apart for colour-blind eyes too; the order is the order of use.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#999999"
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW, GREY)
TINTS = (
    "#CCE3F0",
    "#FAECCC",
    "#CCECE3",
    "#F7DFCC",
    "#F5E4EE",
)  # the same, pale: black text is readable
DPI = 130
WIDTH = 6.5  # inches


def style() -> None:
    """Set matplotlib's looks for all figures that follow; every chapter's first cell does."""
    import matplotlib.pyplot as plt

    plt.rcParams.update({
        "figure.figsize": (WIDTH, 2.8), "figure.dpi": DPI, "savefig.dpi": DPI,
        "figure.constrained_layout.use": True, "figure.facecolor": "white",
        "font.family": "sans-serif", "font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left",
        "axes.prop_cycle": plt.cycler(color=COLOURS), "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.6,
        "axes.axisbelow": True, "lines.linewidth": 1.6, "legend.frameon": False,
        "image.interpolation": "nearest", "image.cmap": "Greys",
    })  # fmt: skip


@dataclass(frozen=True, eq=False)
class Picture:
    """An image with its alt text: what a sighted reader would conclude from it, with the numbers.

    Raises ValueError for an empty alt text.
    """

    image: Image.Image
    alt: str

    def __post_init__(self):
        if not self.alt.strip():
            raise ValueError("the alt text is empty; say in a sentence what the figure shows")

    def __repr__(self) -> str:
        return f"<{self.alt}>"

    def _repr_html_(self) -> str:
        return png_html(self.image, self.alt)


@dataclass(frozen=True, eq=False)
class Html:
    """A piece of HTML, and the text that stands for it where there is no HTML."""

    html: str
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def plotted(figure: "Figure", alt: str) -> Picture:
    """A matplotlib figure as a picture of at most 256 colours; the figure is closed."""
    import matplotlib.pyplot as plt

    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight")
    plt.close(figure)
    image = Image.open(file).convert("RGB")
    return Picture(image.quantize(256, dither=Image.Dither.NONE), alt)


def row(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    alt: str,
    title: str = "",
    columns: int | None = None,
) -> Picture:
    """Pictures (uint8) beside each other, each over its caption; several rows with ``columns``."""
    return Picture(grid(pictures, captions, title, columns or len(pictures)), alt)


def token_grid(
    tokens: "np.ndarray | Tensor",
    alt: str,
    highlight: "np.ndarray | Tensor | None" = None,
    title: str = "",
) -> Picture:
    """A grid (h, w) of tokens with thin lines and their numbers; ``highlight`` (h, w), bool, is tinted."""
    import matplotlib.pyplot as plt

    tokens = np.asarray(tokens)
    h, w = tokens.shape
    tinted = np.zeros((h, w), bool) if highlight is None else np.asarray(highlight)
    figure, ax = plt.subplots(figsize=(min(WIDTH, 0.42 * w + 0.3), 0.3 * h + 0.3))
    for y, x in np.ndindex(h, w):
        face = TINTS[0] if tinted[y, x] else "white"
        ax.add_patch(plt.Rectangle((x, y), 1, 1, facecolor=face, edgecolor=GREY, linewidth=0.5))
        ax.text(x + 0.5, y + 0.5, tokens[y, x], ha="center", va="center", fontsize=7)
    ax.set(xlim=(-0.05, w + 0.05), ylim=(h + 0.05, -0.05), title=title)
    ax.axis("off")
    return plotted(figure, alt)


def mask_picture(
    mask: "np.ndarray | Tensor",
    alt: str,
    title: str = "",
    borders: Sequence[int] = (),
    labels: tuple[str, str] = ("key: which position is looked at", "query: who looks"),
) -> Picture:
    """A mask (n, n), bool, dark where a position (row) may attend to a key (column).

    borders: positions at which another part of the stream begins, drawn as lines. labels: of columns, rows.
    """
    import matplotlib.pyplot as plt

    mask = np.asarray(mask)
    figure, ax = plt.subplots(figsize=(3.2, 3.2))
    ax.imshow(mask, vmin=0, vmax=1.25)
    for border in borders:
        ax.axhline(border - 0.5, color=ORANGE, linewidth=1)
        ax.axvline(border - 0.5, color=ORANGE, linewidth=1)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    ax.grid(False)
    return plotted(figure, alt)


def chips(pieces: Sequence[str], ids: Sequence[int] | None = None, note: str = "") -> Html:
    """Text tokens as coloured chips in a line, spaces shown as ␣, with their ids below if given."""
    boxes = []
    for k, piece in enumerate(pieces):
        number = "" if ids is None else f'<br><small style="color:#444">{ids[k]}</small>'
        boxes.append(
            f'<span style="display:inline-block;margin:2px;padding:1px 5px;border-radius:3px;'
            f'background:{TINTS[k % len(TINTS)]};color:#000;text-align:center;line-height:1.3">'
            f"<code style='background:none;border:0;padding:0;color:#000'>"
            f"{escape(piece.replace(' ', '␣'))}</code>{number}</span>"
        )
    line = f"<div>{escape(note)}</div>" if note else ""
    text = f"{note} " * bool(note) + "|".join(pieces)
    return Html(f'<div class="minidalle-chips">{line}{"".join(boxes)}</div>', text)


def slider(frames: Sequence[Any], labels: Sequence[str], knob: str, start: int = 0) -> Html:
    """Frames of which a slider shows one at a time, by mouse or by arrow keys, with no kernel.

    frames: `Picture`s, `chips` or anything else with ``_repr_html_``, each described by itself.
    labels: what the knob says at each frame, with units. knob: its name. start: the first to be seen.
    Raises ValueError unless there are two frames or more, and as many labels.
    """
    if len(frames) < 2 or len(frames) != len(labels):
        raise ValueError(
            f"{len(frames)} frames, {len(labels)} labels; a slider needs 2 of each or more"
        )
    inner = [frame._repr_html_() for frame in frames]
    name = "slider-" + hashlib.sha256("".join([knob, *labels, *inner]).encode()).hexdigest()[:10]
    shown = "".join(
        f'<div class="frame"{"" if k == start else " hidden"}>{html}</div>'
        for k, html in enumerate(inner)
    )
    options = escape("\n".join(labels))
    html = f"""<div class="minidalle-slider" id="{name}" role="group" aria-label="{escape(knob)}">
<label style="display:flex;gap:0.7em;align-items:center;margin-bottom:0.4em">{escape(knob)}
<input type="range" min="0" max="{len(frames) - 1}" step="1" value="{start}" data-labels="{options}"
 aria-valuetext="{escape(labels[start])}" autocomplete="off" style="flex:1;max-width:20em">
<output aria-live="polite">{escape(labels[start])}</output></label>
{shown}</div>
<script>{SLIDE.replace("NAME", name)}</script>"""
    text = f"<slider “{knob}”: {', '.join(labels)}>"
    return Html(html, text)


SLIDE = """(() => {
const box = document.getElementById("NAME"), knob = box.querySelector("input");
const frames = box.querySelectorAll(".frame"), labels = knob.dataset.labels.split("\\n");
const show = () => {
frames.forEach((frame, k) => { frame.hidden = k !== +knob.value; });
box.querySelector("output").textContent = labels[knob.value];
knob.setAttribute("aria-valuetext", labels[knob.value]);
};
knob.addEventListener("input", show);
show();
})();"""


def live(draw: Callable[..., Any], **knobs: Any) -> Any:
    """ipywidgets' ``interact`` where somebody can turn the knobs: in a running notebook.

    knobs: as ``interact`` takes them, e.g. ``tau=(0.1, 2.0)``. Where a notebook is run for the page or for
    a test (``MINIDALLE_QUIET=1``), a sentence stands instead, since dead knobs would mislead.
    """
    if quiet():
        names = ", ".join(knobs)
        sentence = f"Run this notebook in Jupyter or Colab to turn these knobs yourself: {names}."
        return Html(f"<p><em>{escape(sentence)}</em></p>", sentence)
    from IPython.display import display
    from ipywidgets import interact

    interact(lambda **values: display(draw(**values)), **knobs)
    return None
