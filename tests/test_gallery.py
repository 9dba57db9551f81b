"""The gallery: a fixed choice of captions, honest marks, words for who does not see; the book's page."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import world_bundle
from PIL import Image

from minidalle.bundle_files import find
from minidalle.data import Scope
from minidalle.examiner import Examiner
from minidalle.gallery import ABOVE, GAP, RIGHT, SIDE, WRONG, Row, gallery
from minidalle.presets import CI, WORLD
from minidalle.questions import ask
from minidalle.world import FAMILIES

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "book" / "gallery.md"
SPLITS = ("test", "zero-shot")
IMAGE = r"^!\[(.+?)\]\((gallery/[\w-]+\.png)\)$"


def entries(text: str) -> list[tuple[str, str, str]]:
    """The rows of a page: caption, alt text, file."""
    return re.findall(r"^“(.+)”\n\n" + IMAGE[1:], text, re.MULTILINE)


def row(right) -> Row:
    columns = ("truth", "reconstruction", "sample 1")
    pictures = np.full((3, 24, 24, 3), (0, 158, 115), np.uint8)  # neither mark's colour
    return Row("a small red circle", columns, pictures, right)


def colours(image: Image.Image, k: int) -> set[tuple[int, int, int]]:
    """What is painted below the k-th of three pictures, besides the ground."""
    pixels = np.array(image.convert("RGB"))
    below = pixels[-28:, k * pixels.shape[1] // 3 : (k + 1) * pixels.shape[1] // 3]
    return {tuple(each) for each in below.reshape(-1, 3).tolist()}


def test_marks_differ_in_colour_and_in_shape():
    """Right and wrong under the right pictures, told apart in black and white, too."""
    image = row((True, False, True)).image()
    near = lambda found, colour: any(  # noqa: E731
        max(abs(a - b) for a, b in zip(each, colour, strict=True)) < 6 for each in found
    )
    for k, right in enumerate((True, False, True)):
        found = colours(image, k)
        assert near(found, RIGHT if right else WRONG) and not near(found, WRONG if right else RIGHT)
    gray = np.array(image.convert("L"))[-28:]
    first, second = (
        gray[:, k * gray.shape[1] // 3 :][:, : gray.shape[1] // 3] < 200 for k in (0, 1)
    )
    assert first.sum() != second.sum()


def test_words_say_what_the_marks_say():
    assert row((True, False, True)).alt == (
        "“a small red circle”. The examiner finds right: truth, sample 1; wrong: reconstruction."
    )
    assert row((True,) * 3).alt.endswith("finds right: truth, reconstruction, sample 1.")
    assert "right" not in row((False,) * 3).alt


def test_pictures_are_shown_as_they_are():
    """A pixel stays a square, and every one of many colours what it is: a page that paints over them lies."""
    pictures = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), np.uint8)
    image = Row("noise", ("a", "b", "c"), pictures, (True,) * 3).image()
    assert image.width >= 3 * (SIDE - 24)
    shown, times = np.array(image.convert("RGB")), round(SIDE / 24)
    for k, picture in enumerate(pictures):
        large = picture.repeat(times, 0).repeat(times, 1)
        x, y = GAP + k * (len(large) + GAP), ABOVE
        assert (shown[y : y + len(large), x : x + len(large)] == large).all()


class Strict(Examiner):
    """Finds everything wrong but what it is asked first."""

    def right(self, pictures, scenes, only_below=False):
        return torch.arange(len(pictures)) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A page by an untrained model."""
    folder = tmp_path_factory.mktemp("gallery")
    torch.manual_seed(0)
    bundle = world_bundle()
    bundle.save(folder / "model")
    judge = Strict(CI.families, 24)
    out = folder / "site" / "gallery"
    return gallery(str(folder / "model"), bundle, out, 2, 0, lambda line: None, judge)


def test_a_page_shows_the_first_captions_of_each_split(made):
    """Whatever came of them, in order, each with its picture file; failures are counted as they are."""
    text = made.read_text()
    expected = [
        caption
        for split in SPLITS
        for caption in ask(Scope(CI.families, CI.where), CI.families[0], split, 2, 0)[1]
    ]
    found = entries(text)
    assert [caption for caption, _, _ in found] == expected
    for caption, alt, file in found:
        assert caption in alt and Image.open(made.parent / file).format == "PNG"
    assert (
        len({file for _, _, file in found}) == len(found) == len(list(made.parent.rglob("*.png")))
    )
    assert "| sample 1 | 2 | 4 |" in text, "the first of two is right, in each split"
    assert "best of" not in text, "there is no CLIP"


def test_a_file_in_the_way_is_noticed_before_the_work(tmp_path):
    (tmp_path / "gallery").touch()
    with pytest.raises(FileExistsError):
        gallery("nowhere", world_bundle(), tmp_path / "gallery", 1, 0, lambda line: None)


def test_a_page_says_what_it_was_made_from(made):
    text = made.read_text()
    config = json.loads((made.parent.parent / "model" / "config.json").read_text())
    for mark in config["fingerprints"].values():
        assert f"`{mark}`" in text
    assert "minidalle gallery --model" in text and "--seed 0" in text and "commit" in text


# -------------------------------------------------------------------------------- the book's own page


@pytest.fixture(scope="module")
def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_books_page_belongs_to_the_bundled_weights(text):
    """Whoever changes the weights makes the page anew: `make gallery`."""
    config = json.loads((find("world") / "config.json").read_text())
    marks = dict(re.findall(r"(\w+) `([0-9a-f]{16})`", text))
    assert marks == config["fingerprints"]


def test_the_books_page_is_complete(text):
    """Every family of the model with its first captions, all pictures there and described, none left over."""
    n = int(re.search(r"--n (\d+) --seed 0 ", text)[1])
    expected = [
        caption
        for family in WORLD.families
        for split in SPLITS
        for caption in ask(WORLD, family, split, n, 0)[1]
    ]
    found = entries(text)
    assert [caption for caption, _, _ in found] == expected
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(WORLD.families)
    assert all(name in FAMILIES for name in WORLD.families)
    files = {PAGE.parent / file for _, _, file in found}
    assert files == set((PAGE.parent / "gallery").iterdir())
    for caption, alt, _ in found:
        assert alt.startswith(f"“{caption}”. The examiner finds ")


def test_the_books_pictures_are_modest_in_bytes():
    """Less than 2.5 MB in all."""
    assert sum(file.stat().st_size for file in (PAGE.parent / "gallery").iterdir()) < 2.5e6
