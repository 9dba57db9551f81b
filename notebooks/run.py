"""Run chapters, store their outputs, measure their minutes.  (See CONTRIBUTING.md)

    python notebooks/run.py 03_text_tokens          the .md half → executed .ipynb; minutes → times.json
    python notebooks/run.py --minutes               only the minutes, of all chapters (on a GPU machine, say)
    python notebooks/run.py --refresh               only what is generated: setup cells, time lines, list

A chapter runs as a reader's would: in an empty folder, every cell in order. What is generated in it is
written here: the setup cell, which names the repository of pyproject.toml, and the line of its minutes;
and the README's list of chapters.
"""

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jupytext.config import load_jupytext_config

FOLDER = Path(__file__).parent
TIMES = FOLDER / "times.json"
README = FOLDER.parent / "README.md"
LIST = re.compile(r"(<!-- chapters: .*? -->\n).*?(<!-- /chapters -->)", re.DOTALL)
TIME_LINE = re.compile(r"^\*\*Time\.\*\* .*$", re.MULTILINE)
SETUP = """\
import importlib.util
import subprocess
import sys

REPOSITORY = "{repository}"  # of the package; empty until it is published
if importlib.util.find_spec("minidalle") is None:  # a fresh Colab, say
    if not REPOSITORY:
        raise SystemExit("run `pip install -e .` in the folder of pyproject.toml first")
    install = [sys.executable, "-m", "pip", "install", "--quiet"]  # torch, numpy stay
    subprocess.run([*install, "--no-deps", f"git+{{REPOSITORY}}"], check=True)
    needed = [{libraries}]
    subprocess.run([*install, *needed], check=True)
from minidalle import chapter

DEVICE = chapter.begin()"""


def repository() -> str:
    """The one setting: `[project.urls] Repository` of pyproject.toml, or nothing."""
    text = (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else ""


def libraries() -> str:
    """What the package needs, for pip, but for what Colab has in versions of its own that must stay."""
    text = (FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)[1]
    names = re.findall(r'"([\w-]+)', listed)
    stay = ("matplotlib", "numpy", "pillow", "torch")
    return ", ".join(f'"{name}"' for name in names if name not in stay)


def setup_cell() -> str:
    """The first code cell of every chapter."""
    return SETUP.format(repository=repository(), libraries=libraries())


def time_line(name: str) -> str:
    """What a chapter's header says about its minutes, from the table."""
    minutes = json.loads(TIMES.read_text(encoding="utf-8")).get(name, {})
    here, gpu = minutes.get("cpu"), minutes.get("gpu")
    cpu_words = "not measured on a CPU yet" if here is None else f"{spoken(here)} on a CPU"
    gpu_words = "not measured on a GPU yet" if gpu is None else f"{spoken(gpu)} on a GPU"
    return f"**Time.** All cells together: {cpu_words}; {gpu_words}."


def spoken(minutes: float) -> str:
    """0.4 → "24 seconds", 2.5 → "2.5 minutes"."""
    return f"{minutes * 60:.0f} seconds" if minutes < 1 else f"{minutes:.1f} minutes"


def colab(name: str) -> str:
    """A link that opens a chapter in Colab, which knows GitHub only; nothing without a repository there."""
    on_github = re.fullmatch(r"https://github\.com/([^/]+/[^/]+?)(\.git)?/?", repository())
    place = "https://colab.research.google.com/github"
    return f"{place}/{on_github[1]}/blob/main/notebooks/{name}.ipynb" if on_github else ""


def chapter_list() -> str:
    """The README's table: a row for each chapter that is written."""
    table = json.loads(TIMES.read_text(encoding="utf-8"))
    rows = ["| chapter | CPU |", "|---|---|"]
    if colab(""):
        rows = ["| chapter | CPU | run it |", "|---|---|---|"]
    for path in sorted(FOLDER.glob("[0-9]*.md")):
        title = re.search(r"^# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)[1]
        minutes = table.get(path.stem, {}).get("cpu")
        took = "not measured" if minutes is None else rounded(minutes)
        badge = f" [Colab]({link}) |" if (link := colab(path.stem)) else ""
        rows.append(f"| [{title}](notebooks/{path.stem}.ipynb) | {took} |{badge}")
    return "\n".join(rows) + "\n"


def rounded(minutes: float) -> str:
    """For the list, which should not change with every run: 0.4 → "under a minute", 2.1 → "3 minutes"."""
    return "under a minute" if minutes < 1 else f"{math.ceil(minutes)} minutes"


def with_chapters(readme: str) -> str:
    """The README's text with its list of chapters renewed."""
    return LIST.sub(lambda found: found[1] + chapter_list() + found[2], readme)


def refresh(notebook: nbformat.NotebookNode, name: str) -> None:
    """Write the generated parts of a chapter, in place."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and "setup" in cell.metadata.get("tags", []):
            cell.source = setup_cell()
        elif cell.cell_type == "markdown":
            cell.source = TIME_LINE.sub(time_line(name), cell.source)


def read(name: str) -> nbformat.NotebookNode:
    """The .md half with the cell ids and outputs of the .ipynb half, where there is one."""
    text = FOLDER / f"{name}.md"
    notebook = jupytext.read(text, config=load_jupytext_config(str(text)))
    if (old := text.with_suffix(".ipynb")).exists():
        outputs = nbformat.read(old, as_version=4)
        notebook = jupytext.combine.combine_inputs_with_outputs(notebook, outputs)
    return notebook


def write(notebook: nbformat.NotebookNode, name: str) -> None:
    """Both halves."""
    path = FOLDER / f"{name}.ipynb"
    nbformat.write(notebook, path)
    config = load_jupytext_config(str(path))
    text = jupytext.writes(jupytext.read(path, config=config), fmt="md:myst", config=config)
    path.with_suffix(".md").write_text(text, encoding="utf-8")


def execute(notebook: nbformat.NotebookNode) -> float:
    """Run every cell in an empty folder; minutes. Raises CellExecutionError at the first that fails."""
    from nbclient import NotebookClient

    os.environ["MINIDALLE_QUIET"] = "1"  # no bars, no live knobs: the page could not move them
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        place = {"metadata": {"path": empty}}
        client = NotebookClient(notebook, timeout=600, resources=place, record_timing=False)
        client.store_widget_state = False
        client.execute()
    return (time.perf_counter() - began) / 60


def keep_minutes(name: str, minutes: float) -> None:
    """Write minutes into the table, under the kind of machine that this is."""
    import torch

    table = json.loads(TIMES.read_text(encoding="utf-8"))
    kind = "gpu" if torch.cuda.is_available() else "cpu"
    table.setdefault(name, {"cpu": None, "gpu": None})[kind] = round(minutes, 2)
    text = json.dumps(dict(sorted(table.items())), indent=2) + "\n"
    TIMES.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="chapters; none: all")
    parser.add_argument("--minutes", action="store_true", help="measure only; store no outputs")
    parser.add_argument("--refresh", action="store_true", help="rewrite generated parts only")
    options = parser.parse_args()
    every = sorted(path.stem for path in FOLDER.glob("[0-9]*.md"))
    for name in options.names or every:
        notebook = read(Path(name).stem)
        refresh(notebook, name := Path(name).stem)
        if not options.refresh:
            minutes = execute(notebook)
            keep_minutes(name, minutes)
            print(f"{name}: {minutes:.2f} minutes", file=sys.stderr)
        if not options.minutes:
            refresh(notebook, name)
            write(notebook, name)
    README.write_text(with_chapters(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
