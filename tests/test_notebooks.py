"""Chapters: the rules of `chapters` hold for each, and every cell runs from the wheel, in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import chapters
import exercises
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_MINUTES = 3  # a chapter on the CPU
RULES = (
    chapters.run_faults, chapters.picture_faults, chapters.slider_faults, chapters.length_faults,
    chapters.close_faults, chapters.assert_faults, chapters.exercise_faults, chapters.number_faults,
)  # fmt: skip

each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)


def no(faults: list[str]) -> None:
    assert not faults, "\n\n".join(faults)


def test_there_are_chapters():
    assert [path.stem for path in CHAPTERS][:1] == ["00_start"]
    halves = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.md")}
    assert {path.stem for path in CHAPTERS} == halves


def test_the_readme_lists_the_chapters_that_are_written():
    """Each with its minutes, as `run.py --refresh` writes them; a list without its rows is noticed."""
    readme = chapters.run.README.read_text(encoding="utf-8")
    listed = re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme)
    assert listed == [path.stem for path in CHAPTERS]
    assert chapters.run.with_chapters(readme) == readme


@each_chapter
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rules_hold(path, rule):
    """See each rule's own sentence in `chapters`."""
    no(rule(nbformat.read(path, as_version=4)))


@each_chapter
def test_pair_is_in_step(path):
    no(chapters.pair_faults(path))


@each_chapter
def test_header(path):
    no(chapters.header_faults(nbformat.read(path, as_version=4), path.stem))


@each_chapter
def test_no_machine_paths(path):
    for half in (path, path.with_suffix(".md")):
        no(chapters.place_faults(half.read_text(encoding="utf-8")))


@each_chapter
def test_minutes_are_few(path):
    """As measured, on the CPU."""
    minutes = chapters.run.json.loads(chapters.run.TIMES.read_text())[path.stem]["cpu"]
    assert minutes is not None, f"not measured; run: python notebooks/run.py {path.stem}"
    assert minutes <= MOST_MINUTES


# ------------------------------------------------------------------------------------ the wheel


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """A folder with nothing but the built wheel's content, as pip installs it."""
    place = tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in files.stdout.decode().split("\0"):
        if (
            name.startswith(("minidalle/", "pyproject", "README", "LICENSE"))
            and (ROOT / name).is_file()
        ):
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "-w", place, place / "source"]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = place.glob("*.whl")
    target = place / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", target, wheel], check=True)
    return target


def against(installed: Path) -> dict[str, str]:
    """The environment in which the wheel is imported, wherever else the package lies."""
    return {**os.environ, "PYTHONPATH": str(installed), "MINIDALLE_QUIET": "1"}


def test_the_wheel_is_what_notebooks_import(installed, tmp_path):
    """And it holds the weights."""
    code = "import minidalle; print(minidalle.__file__); minidalle.load()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=against(installed),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_relative_to(installed)


def test_every_exercise_has_wrong_answers():
    """And every wrong answer an exercise."""
    stubs = [
        exercises.function(cell).name
        for path in CHAPTERS
        for cell in chapters.tagged(nbformat.read(path, as_version=4), "exercise")
    ]
    assert sorted(stubs) == sorted(exercises.WRONG) and all(exercises.WRONG.values())


@each_chapter
def test_every_cell_runs_from_an_empty_folder(path, installed, tmp_path):
    """And the checks of its exercises take the solutions and refuse what readers may confuse with them."""
    copy = tmp_path / path.name
    notebook = exercises.with_answers(nbformat.read(path, as_version=4))
    nbformat.write(notebook, copy)
    run = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax",
            "--nbval-current-env", "--nbval-cell-timeout=300", copy,
        ],
        cwd=tmp_path, env=against(installed), capture_output=True, text=True, timeout=1800,
    )  # fmt: skip
    cells = chapters.code_cells(notebook)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert f"{len(cells)} passed" in run.stdout, run.stdout[-2000:]
