"""Pictures for people: grids, alt text, and files that are whole or not there."""

import base64
import io
import os
import re
import stat
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from checks import assert_file_holds
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import minidalle.show as room
from minidalle.files import write_atomically, write_json
from minidalle.show import (
    CELL,
    MARGIN,
    Curves,
    Drawing,
    curves,
    enlarge,
    font,
    grid,
    png_html,
    quiet,
    wrapped,
)


def pictures(n: int, size: int = 8) -> np.ndarray:
    """n random pictures."""
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def drawing(captions, title="") -> Drawing:
    return Drawing(pictures(len(captions)), tuple(captions), np.zeros((len(captions), 4)), title)


def tile(sheet: Image.Image, x: int, y: int, side: int) -> np.ndarray:
    """Part of a sheet, as numbers."""
    return np.array(sheet.crop((x, y, x + side, y + side)))


@pytest.mark.parametrize("size", [8, 24, 32, 64, 128, 256])
def test_enlarging_repeats_pixels(size):
    """A pixel stays a square of one colour; nothing is blurred or stretched."""
    picture = pictures(1, size)[0]
    big = np.array(enlarge(picture))
    factor = big.shape[0] // size
    assert big.shape == (size * factor, size * factor, 3)
    assert (big == picture.repeat(factor, 0).repeat(factor, 1)).all()
    assert size >= CELL or abs(big.shape[0] - CELL) <= size


@given(st.integers(1, 10), st.one_of(st.none(), st.integers(1, 5)))
def test_a_grid_holds_every_picture_in_reading_order(n, columns):
    """Each picture is on the sheet, unchanged, left to right and row by row, without overlap."""
    shots = pictures(n)
    sheet = grid(shots, [f"caption {k}" for k in range(n)], columns=columns)
    across = (sheet.width - MARGIN) // (CELL + MARGIN)
    assert across == (columns or min(n, int(np.ceil(np.sqrt(n)))))
    rows = -(-n // across)
    below = (sheet.height - 2 * MARGIN) // rows - CELL
    assert below >= 20, "room for a line of text"
    for k, shot in enumerate(shots):
        x = MARGIN + (k % across) * (CELL + MARGIN)
        y = 2 * MARGIN + (k // across) * (CELL + below)
        assert (tile(sheet, x, y, CELL) == np.array(enlarge(shot))).all()


def test_captions_stand_below_their_pictures():
    """Ink below a picture with a caption, none below one without."""
    sheet = np.array(grid(pictures(2), ["a red circle", ""], columns=2).convert("L"))
    strip = sheet[2 * MARGIN + CELL :]
    left, right = strip[:, : MARGIN + CELL], strip[:, 2 * MARGIN + CELL :]
    assert (left < 128).any() and not (right < 250).any()


def test_long_captions_make_room():
    """They are wrapped, and the sheet grows."""
    short = grid(pictures(1), ["a red circle"])
    long = grid(pictures(1), ["a red circle above a blue square " * 5])
    assert long.height > short.height and long.width == short.width


@given(st.text("aiW τé→", max_size=60).map(str.strip), st.integers(40, 300))
def test_lines_fit_and_keep_every_word(text, width):
    """Whatever the letters' widths."""
    lines = wrapped(text, width, font(14))
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(font(14).getlength(line) <= width for line in lines)


@pytest.mark.parametrize("letter", list("éñßø×τβλ→≤½“”…−·"))
def test_letters_beyond_ascii_are_drawn(letter):
    """And not the box that stands for a missing one."""
    shape, missing = (bytes(font(14).getmask(each)) for each in (letter, "\uffff"))
    assert any(shape) and shape != missing


def test_a_title_makes_room():
    """It stands above the pictures."""
    assert grid(pictures(1), ["x"], "a title").height > grid(pictures(1), ["x"]).height


@pytest.mark.parametrize(("n", "captions"), [(0, []), (2, ["one"]), (1, ["one", "two"])])
def test_a_caption_for_each_picture(n, captions):
    """Otherwise an error with both numbers."""
    with pytest.raises(ValueError, match=f"{n}.*{len(captions)}"):
        grid(pictures(n), captions)


def test_alt_text_says_what_was_asked_for():
    """And how many pictures there are of each, in the order of asking."""
    alt = drawing(["a star", "a star", "a <cat> & a “dog”"]).alt
    assert alt == (
        "3 pictures drawn by the model: 2 for the caption “a star”; 1 for the caption "
        "“a <cat> & a “dog””"
    )
    assert drawing(["a star"]).alt.startswith("1 picture drawn")


def test_in_a_notebook_a_drawing_shows_itself_with_alt_text():
    """An <img> with the PNG inside and an escaped alternative."""
    shown = drawing(['a "star" <b>'])._repr_html_()
    alt = re.search(r'alt="([^"]*)"', shown).group(1)
    assert "&quot;star&quot; &lt;b&gt;" in alt
    data = re.search(r"base64,([^\"]+)", shown).group(1)
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.size == drawing(['a "star" <b>']).grid().size


def test_html_keeps_every_pixel():
    """PNG is lossless."""
    image = Image.fromarray(pictures(1)[0])
    data = re.search(r"base64,([^\"]+)", png_html(image, "")).group(1)
    assert (np.array(Image.open(io.BytesIO(base64.b64decode(data)))) == np.array(image)).all()


def test_the_file_on_disk_equals_the_pictures(tmp_path):
    """Saved, read back, compared pixel by pixel."""
    one = drawing(["a star"])
    path = one.save(tmp_path / "star.png")
    assert_file_holds(path, np.array(one.grid()))
    sheet = Image.open(path)
    assert (tile(sheet, MARGIN, 2 * MARGIN, CELL) == np.array(enlarge(one.pictures[0]))).all()


def test_saving_where_no_folder_is_is_an_oserror(tmp_path):
    """It names the place; nothing is made."""
    with pytest.raises(OSError, match="missing"):
        drawing(["a star"]).save(tmp_path / "missing" / "star.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), ValueError("bad")])
def test_a_failing_writer_leaves_the_old_file(tmp_path, error):
    """Never half of a new one, and no temporary file."""
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(file):
        file.write(b"half of the new")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file.txt"]


def test_a_failing_writer_leaves_no_new_file(tmp_path):
    """Where there was nothing, there is nothing."""
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "file.txt", lambda file: 1 / 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_have_the_usual_permissions(tmp_path):
    """Not the private ones of a temporary file."""
    old = os.umask(0o022)
    try:
        write_atomically(tmp_path / "file", lambda file: None)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_json_is_readable(tmp_path):
    """Indented, Unicode as it is, with a newline at the end."""
    write_json(tmp_path / "x.json", {"DALL·E": [1]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "DALL·E" in text and text.endswith("}\n") and text.count("\n") > 2


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), (None, False)])
def test_quiet_is_asked_of_the_environment(monkeypatch, value, expected):
    """MINIDALLE_QUIET=1 turns progress bars off."""
    monkeypatch.delenv("MINIDALLE_QUIET")
    if value is not None:
        monkeypatch.setenv("MINIDALLE_QUIET", value)
    assert quiet() is expected


LINES = [
    {"stage": "dVAE", "step": 10, "seconds": 1.0, "loss": 9.0},
    {"stage": "DALL·E", "step": 5, "seconds": 2.0, "loss": 3.0, "rate": 1.0},
    {"stage": "DALL·E", "step": 10, "seconds": 3.0, "loss": 2.0, "rate": 0.5},
]


def test_curves_are_of_the_stage_that_trains():
    """A curve for each figure, over the steps of the last line's stage alone; titles name them."""
    figure = curves(LINES)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "rate"]
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [5, 10] and list(line.get_ydata()) == [3.0, 2.0]
    assert figure.get_suptitle() == "DALL·E · step 10"


def test_curves_redraw_one_figure_in_a_notebook(monkeypatch):
    """The first report displays, later ones update what is displayed."""
    shown = []

    class Handle:
        def update(self, figure):
            shown.append(("update", len(figure.axes)))

    def display(figure, display_id):
        shown.append(("display", len(figure.axes)))
        return Handle()

    monkeypatch.setattr(room, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    live = Curves()
    for n in (1, 2, 3):
        live.draw(LINES[:n])
    assert shown == [("display", 1), ("update", 2), ("update", 2)]


def test_curves_do_nothing_outside_a_notebook():
    """No matplotlib is loaded, nothing is printed."""
    program = (
        "import sys; from minidalle.show import Curves; Curves().draw([{'stage': 'a', 'step': 1}]); "
        "print('matplotlib' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert answer.stdout == "False\n" and answer.stderr == ""


def test_a_notebook_is_recognised(monkeypatch):
    """Jupyter's kernel is one, IPython in a terminal is none."""
    for shell, is_one in (("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False)):
        fake = SimpleNamespace(get_ipython=lambda shell=shell: type(shell, (), {})())
        monkeypatch.setitem(sys.modules, "IPython", fake)
        assert room.in_notebook() == is_one
