"""Chapters: both halves of a pair agree, outputs are whole, pictures are described, and every cell runs."""

import ast
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupytext.config import load_jupytext_config

FOLDER = Path(__file__).parent.parent / "notebooks"
CHAPTERS = sorted(FOLDER.glob("*.ipynb"))
LONGEST_CELL = 15  # lines
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|home|root|tmp|Users|content|mnt|var)/|\b[A-Z]:\\\\?\w")
DATA_URI = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


class Images(HTMLParser):
    """Collects the attributes of every <img>."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


def code_cells(path: Path) -> list:
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def html_of(output) -> str:
    return "".join(output.get("data", {}).get("text/html", ""))


def shows_a_value(source: str) -> bool:
    """Whether a cell ends with an expression, as print(…) or a picture; then it leaves an output."""
    return isinstance(ast.parse(source).body[-1], ast.Expr)


def undescribed(cell) -> list[str]:
    """What a cell's outputs show without an alt text."""
    missing = []
    for output in cell.outputs:
        for image in Images(html_of(output)).found:
            if not (image.get("alt") or "").strip():
                missing.append("an <img> without alt")
        kinds = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
        if kinds and not cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "").strip():
            missing.append(f"{kinds[0]} without `mystnb: {{image: {{alt: …}}}}`")
    return missing


def test_there_are_chapters():
    assert [path.stem for path in CHAPTERS][:1] == ["00_start"]
    assert {path.stem for path in CHAPTERS} == {path.stem for path in FOLDER.glob("*.md")}


@each_chapter
def test_pair_is_in_step(path):
    config = load_jupytext_config(str(path))
    notebook = jupytext.read(path, config=config)
    text = jupytext.writes(notebook, fmt="md:myst", config=config)
    stored = path.with_suffix(".md").read_text(encoding="utf-8")
    assert text == stored, f"run: jupytext --sync notebooks/{path.name}"


@each_chapter
def test_every_cell_was_run_in_order(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [o for o in cell.outputs if o.output_type == "error"], cell.source
        assert cell.outputs or not shows_a_value(cell.source), f"no output stored:\n{cell.source}"


@each_chapter
def test_every_picture_is_described(path):
    cells = code_cells(path)
    assert any("<img" in html_of(output) for cell in cells for output in cell.outputs)
    faults = [f"{fault}:\n{cell.source}" for cell in cells for fault in undescribed(cell)]
    assert not faults, faults[0]
    markdown = path.with_suffix(".md").read_text(encoding="utf-8")
    assert not re.search(r"!\[\s*\]\(", markdown), "a markdown picture without a description"


@each_chapter
def test_cells_are_short(path):
    for cell in code_cells(path):
        lines = cell.source.splitlines()
        assert len(lines) <= LONGEST_CELL, f"{len(lines)} lines:\n{cell.source}"


@each_chapter
def test_no_machine_paths(path):
    for half in (path, path.with_suffix(".md")):
        text = DATA_URI.sub("", half.read_text(encoding="utf-8"))
        found = MACHINE_PATH.search(text)
        assert not found, f"{half.name}: …{text[max(0, found.start() - 40) : found.end() + 40]}…"


@each_chapter
def test_every_cell_runs_from_an_empty_folder(path, tmp_path):
    copy = shutil.copy(path, tmp_path)
    run = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
            "--nbval-current-env", "--nbval-cell-timeout=300", copy,
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"{len(code_cells(path))} passed" in run.stdout, run.stdout[-2000:]
