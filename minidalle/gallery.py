"""A page of pictures: what a model draws in every family, failures as plainly as successes.  (Chapter 12)

Which captions are shown is decided by a rule that knows no result: the first ones of each family's test and
zero-shot scenes. So is which samples: the first ones, and what CLIP picks from 32. Under every picture
stands the examiner's verdict, a tick in a blue disc or a cross in an orange square: two shapes, two colours.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from .bundle import Bundle
from .bundle_files import find
from .candidates import Candidates, Clock, decode, draw_candidates, encode, noise, paint
from .card import commit
from .data import to_uint8
from .examine import BEST, CANDIDATES, SPLITS, find_examiner, scope_of
from .examiner import Examiner
from .files import write_atomically
from .questions import ask
from .show import INK, PAPER, enlarge, font

SAMPLES = 3  # shown of each caption, the first that were drawn
SIDE = 128  # pixels on a side of a shown picture
GAP, ABOVE, BELOW = 8, 20, 28  # pixels between pictures, for the column's name, for the verdict
RIGHT, WRONG = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermilion
WORDS = {"test": "Fresh scenes", "zero-shot": "Zero-shot"}

HEAD = """\
# Gallery

What the model `{name}` draws in each of its families. The captions are the first {n} of the family's
fresh scenes, then the first {n} of its zero-shot scenes: compositions that no training picture shows. The
samples are the first {samples} that were drawn. Nobody chose them{best}.

Under each picture stands the verdict of an examiner, which has learned from true pictures and spoilt ones,
never from a model's: a tick in a blue disc where it reads every fact of the caption, a cross in an orange
square where it reads something else. It judges the true pictures, too, and may err there. Half of what it
learned from was a little blurred or noisy; whether its ticks under blurrier ones are deserved is for you to
see.

| shown on this page | right | of |
|---|---:|---:|
{counts}

Made by `{command}`, {commit}, from weights with the fingerprints {marks}.
"""
CHOSE = """, except for the last picture of each row: the one
that CLIP likes best of the {} that were drawn first"""


@dataclass(frozen=True)
class Row:
    """A caption with its pictures (k, 3, S, S), their columns and the examiner's verdicts."""

    caption: str
    columns: tuple[str, ...]
    pictures: np.ndarray  # uint8 (k, S, S, 3)
    right: tuple[bool, ...]

    @property
    def alt(self) -> str:
        """What is to be seen, for who does not see it."""
        verdicts = {True: [], False: []}
        for column, right in zip(self.columns, self.right, strict=True):
            verdicts[right].append(column)
        words = {True: "right", False: "wrong"}
        said = [f"{words[each]}: {', '.join(names)}" for each, names in verdicts.items() if names]
        return f"“{self.caption}”. The examiner finds {'; '.join(said)}."

    def image(self) -> Image.Image:
        """The pictures beside each other, each under its column's name and above its verdict."""
        tiles = [enlarge(picture, SIDE) for picture in self.pictures]
        side = tiles[0].width
        width = len(tiles) * (side + GAP) + GAP
        sheet = Image.new("RGB", (width, ABOVE + side + BELOW), PAPER)
        pen = ImageDraw.Draw(sheet)
        for k, (column, tile, right) in enumerate(
            zip(self.columns, tiles, self.right, strict=True)
        ):
            x = GAP + k * (side + GAP)
            pen.text((x, 2), column, fill=INK, font=font(12))
            sheet.paste(tile, (x, ABOVE))
            mark(pen, x + side // 2, ABOVE + side + BELOW // 2, right)
        return sheet


def mark(pen: ImageDraw.ImageDraw, x: int, y: int, right: bool) -> None:
    """A verdict around (x, y): a white tick in a blue disc, or a white cross in an orange square."""
    r = 9
    if right:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=RIGHT)
        pen.line([(x - 4, y), (x - 1, y + 4), (x + 5, y - 4)], fill=PAPER, width=3)
    else:
        pen.rectangle((x - r, y - r, x + r, y + r), fill=WRONG)
        for slope in (-1, 1):
            pen.line([(x - 4, y - 4 * slope), (x + 4, y + 4 * slope)], fill=PAPER, width=3)


def rows(
    bundle: Bundle, examiner: Examiner, family: str, split: str, n: int, seed: int
) -> list[Row]:
    """The first n captions of a family and split, drawn and judged."""
    scenes, captions = ask(scope_of(bundle), family, split, n, seed)
    true = paint(scenes, bundle.dvae.config.size)
    many = CANDIDATES if bundle.clip else SAMPLES
    drawn = draw_candidates(bundle, captions, many, noise(seed, family, split), Clock())
    sets = columns(true, decode(bundle, encode(bundle, true)), drawn)
    right = {name: examiner.right(x, scenes).tolist() for name, x in sets.items()}
    shown = {name: to_uint8(x) for name, x in sets.items()}
    return [
        Row(
            caption,
            tuple(sets),
            np.stack([x[k] for x in shown.values()]),
            tuple(verdicts[k] for verdicts in right.values()),
        )
        for k, caption in enumerate(captions)
    ]


def columns(true: Tensor, rebuilt: Tensor, drawn: Candidates) -> dict[str, Tensor]:
    """The pictures (n, 3, S, S) of each column, in order."""
    sets = {"truth": true, "reconstruction": rebuilt}
    sets |= {f"sample {k + 1}": drawn.pictures[:, k] for k in range(SAMPLES)}
    return sets if drawn.similarity is None else {**sets, BEST: drawn.best}


def gallery(
    model: str,
    bundle: Bundle,
    out: Path,
    n: int = 2,
    seed: int = 0,
    echo: Callable[[str], object] = print,
    examiner: Examiner | None = None,
) -> Path:
    """Write the page ``out``.md and its pictures ``out``/FAMILY-SPLIT-k.png; returns the page's path.

    model: as given to `load`, for the fingerprints. n: captions of each family and split. With a CLIP these
    are the pictures that the scoreboard counts first, given its seed (up to rounding). Raises ValueError for
    n < 1 and for a model that was not trained on the world, FileExistsError where ``out`` is a file.
    """
    if n < 1:
        raise ValueError(f"--n must be at least 1, not {n}")
    learned = scope_of(bundle)
    out.mkdir(parents=True, exist_ok=True)
    judge = examiner or find_examiner(learned, bundle.dvae.config.size, echo)
    body, every = [], []
    for family in learned.families:
        body.append(f"## {family}")
        for split in SPLITS:
            body.append(f"### {WORDS[split]}")
            found = rows(bundle, judge, family, split, n, seed)
            body += [entry(row, out, f"{family}-{split}-{k + 1}") for k, row in enumerate(found)]
            every += found
        echo(f"{family}: {2 * n} rows")
    page = out.with_name(out.name + ".md")
    text = "\n\n".join([head(model, bundle, out, n, seed, every), *body]) + "\n"
    write_atomically(page, lambda file: file.write(text.encode()))
    return page


def entry(row: Row, out: Path, name: str) -> str:
    """A row of the page; writes its picture."""
    image = row.image()
    write_atomically(out / f"{name}.png", lambda file: image.save(file, "PNG", optimize=True))
    alt = row.alt.replace("[", "(").replace("]", ")")
    return f"“{row.caption}”\n\n![{alt}]({out.name}/{name}.png)"


def head(model: str, bundle: Bundle, out: Path, n: int, seed: int, every: Sequence[Row]) -> str:
    """What the page shows, how often it is right, and what it was made from."""
    counts = [
        f"| {column} | {sum(row.right[k] for row in every)} | {len(every)} |"
        for k, column in enumerate(every[0].columns)
    ]
    marks = json.loads((find(model) / "config.json").read_text("utf-8"))["fingerprints"]
    return HEAD.format(
        name=bundle.name,
        n=n,
        samples=SAMPLES,
        best=CHOSE.format(CANDIDATES) if bundle.clip else "",
        counts="\n".join(counts),
        command=f"minidalle gallery --model {model} --n {n} --seed {seed} --out {out}",
        commit=f"commit {commit()}",
        marks=", ".join(f"{part} `{mark}`" for part, mark in marks.items()),
    ).rstrip()
