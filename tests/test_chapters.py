"""Every rule of `chapters` is broken by a planted chapter, and a chapter without faults passes them all."""

import base64

import chapters
import jupytext
import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from minidalle.figures import Picture, slider
from minidalle.show import enlarge

NAME = "03_text_tokens"
HEAD = f"""# 3 · Text tokens

Something to see.

After it you can

- do this,
- do that,
- do the third.

**Before it.** Chapter 2.

{chapters.run.time_line(NAME)}"""
CLOSE = """## What we left out

Much.

## What the paper did

It used 16,384 tokens (§2.2).

## In five lines

- a
- b
- c
- d
- e

## Questions

1. Why?
2. What?
3. Who?

## Further reading

- {cite:t}`ramesh2021`, {cite:t}`sennrich2016`."""
STUB = 'def {0}(x):\n    """x: int. Returns an int."""\n    ...\n\n\nprint({0}(1))'
SOLUTION = "def {0}(x):\n    return x\n\n\nassert {0}(1) == 1"


def frame(shade: int) -> Picture:
    return Picture(enlarge(np.full((8, 8, 3), shade, np.uint8)), f"A square of shade {shade}.")


def code(source: str, *outputs, tags=(), name="") -> nbformat.NotebookNode:
    metadata = {"tags": list(tags)} | ({"name": name} if name else {})
    return new_code_cell(source, outputs=list(outputs), metadata=metadata)


def text(words: str):
    return new_output("stream", name="stdout", text=words)


def html(words: str):
    return new_output("execute_result", {"text/html": words, "text/plain": "…"})


def planted(**changes) -> nbformat.NotebookNode:
    """A small chapter in which nothing is wrong, but for the changes: cell name → cell or None."""
    shown = slider([frame(0), frame(255)], ["dark", "light"], "shade")._repr_html_()
    cells = {
        "head": new_markdown_cell(HEAD),
        "setup": code(chapters.run.setup_cell(), text("ready\n"), tags=["setup"]),
        "settings": code("V = 512", tags=["settings"]),
        "prose": new_markdown_cell("## A section\n\nThe next cell prints 42 and 1,000."),
        "print": code("print(42, 1000)", text("42 1000\n")),
        "asserts": code("\n".join(f"assert {k} == {k}" for k in range(5))),
        "slider": code("figures.slider(frames)", html(shown)),
        "exercises": new_markdown_cell(
            "## Exercises\n\n**1. One.** <summary>Hint</summary>\n\n**2. Two.** <summary>Hint</summary>"
        ),
        "stub 1": code(STUB.format("one"), text("None\n"), tags=["exercise"]),
        "solution 1": code(SOLUTION.format("one"), tags=["hide-cell", "solution"]),
        "stub 2": code(STUB.format("two"), text("None\n"), tags=["exercise"]),
        "solution 2": code(SOLUTION.format("two"), tags=["hide-cell", "solution"]),
        "close": new_markdown_cell(CLOSE),
    }
    cells = {name: changes.get(name, cell) for name, cell in cells.items()}
    notebook = new_notebook(cells=[cell for cell in cells.values() if cell is not None])
    for k, cell in enumerate(chapters.code_cells(notebook), start=1):
        cell.execution_count = k
    return notebook


RULES = {
    name: getattr(chapters, f"{name}_faults")
    for name in ("run", "picture", "slider", "length", "close", "assert", "exercise", "number")
} | {"header": lambda notebook: chapters.header_faults(notebook, NAME)}


@pytest.mark.parametrize("rule", RULES)
def test_a_chapter_without_faults_passes(rule):
    assert RULES[rule](planted()) == []


def says(words: str) -> nbformat.NotebookNode:
    return new_markdown_cell(f"## A section\n\n{words}")


def without(cell: str, part: str, instead: str = "") -> nbformat.NotebookNode:
    """The planted chapter with a piece of one cell replaced."""
    (key,) = [k for k in ("head", "close") if k == cell]
    source = {"head": HEAD, "close": CLOSE}[key]
    assert part in source
    return planted(**{key: new_markdown_cell(source.replace(part, instead))})


BARE = new_output("display_data", {"image/png": base64.b64encode(b"x").decode()})
HEAVY = base64.b64encode(b"x" * (chapters.LARGEST_PICTURE + 1)).decode()
EXERCISES = ("stub 1", "stub 2", "solution 1", "solution 2")
FAULTS = {
    "an error is stored": ("run", "error", planted(print=code("1", new_output("error")))),
    "a warning is stored": (
        "run", "warning", planted(print=code("f()", new_output("stream", name="stderr", text="!")))
    ),
    "a cell was not run": ("run", "no output", planted(print=code("print(42)"))),
    "an empty alt": ("picture", "without alt", planted(print=code("x", html('<img alt=" ">')))),
    "a bare image": ("picture", "bare image", planted(print=code("x", BARE))),
    "a heavy picture": (
        "picture", "bytes",
        planted(print=code("x", html(f'<img alt="a" src="data:image/png;base64,{HEAVY}">'))),
    ),
    "a heavy output": ("picture", "characters", planted(print=code("x", html(" " * 2_000_000)))),
    "no picture": ("picture", "no picture", planted(slider=None)),
    "a markdown picture": ("picture", "markdown picture", planted(prose=says("![](a.png)"))),
    "no slider": ("slider", "no slider", planted(slider=None)),
    "a dead widget": (
        "slider", "widget",
        planted(print=code("x", new_output("display_data", {"application/widget-view+json": {}}))),
    ),
    "a long cell": ("length", "16 lines", planted(print=code("\n".join(["x = 1"] * 16)))),
    "a long line": ("length", "90 characters", planted(print=code("x = " + "1" * 86))),
    "another title": ("header", "title", without("head", "# 3 ·", "# 4 ·")),
    "few goals": ("header", "goals", without("head", "- do that,\n")),
    "nothing before": ("header", "Before it", without("head", "**Before it.**")),
    "minutes typed in": ("header", "Time", without("head", "All cells together:", "About")),
    "a setup of one's own": ("header", "setup", planted(setup=code("import torch", tags=["setup"]))),
    "no settings": ("header", "settings", planted(settings=None)),
    "no close": ("close", "last sections", planted(close=None)),
    "four lines": ("close", "4 lines", without("close", "- e\n")),
    "two questions": ("close", "questions", without("close", "3. Who?")),
    "one citation": ("close", "citations", without("close", ", {cite:t}`sennrich2016`")),
    "no section of the paper": ("close", "no section", without("close", "§2.2", "somewhere")),
    "few assertions": ("assert", "fewer than", planted(asserts=None)),
    "a stub without docstring": (
        "exercise", "docstring", planted(**{"stub 1": code("def one(x): ...", tags=["exercise"])})
    ),
    "a solution of something else": (
        "exercise", "something else",
        planted(**{"solution 1": code(SOLUTION.format("won"), tags=["hide-cell", "solution"])}),
    ),
    "a solution with other arguments": (
        "exercise", "arguments",
        planted(**{"solution 1": code("def one(y):\n    assert y", tags=["hide-cell", "solution"])}),
    ),
    "a solution that asserts nothing": (
        "exercise", "asserts nothing",
        planted(**{"solution 1": code("def one(x):\n    return x", tags=["hide-cell", "solution"])}),
    ),
    "a solution in the open": (
        "exercise", "not folded", planted(**{"solution 1": code(SOLUTION.format("one"), tags=["solution"])})
    ),
    "no hint": ("exercise", "hints", planted(exercises=new_markdown_cell("## Exercises"))),
    "no exercise": ("exercise", "0 cells", planted(**dict.fromkeys(EXERCISES))),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_rule_finds_its_fault(fault):
    rule, words, notebook = FAULTS[fault]
    faults = RULES[rule](notebook)
    assert faults and words in "\n".join(faults), faults


def test_cells_out_of_order_are_found():
    notebook = planted()
    chapters.code_cells(notebook)[1].execution_count = 7
    assert "in order" in chapters.run_faults(notebook)[0]


TYPED = {
    "a result": "It reaches 97.3 % on unseen captions.",
    "a large word": "It was trained on a million captions.",
    "beside another cited sentence": "The paper used 16,384 tokens (§2.2). Ours needs 800.",
    "in a list": "- The loss fell to 2.7 nats.",
    "a number of another cell's neighbour": "There were 43.",
    "in a heading": "x\n\n## Why 77 codes die",
}


@pytest.mark.parametrize("kind", TYPED)
def test_a_number_from_nowhere_is_found(kind):
    assert len(chapters.number_faults(planted(prose=says(TYPED[kind])))) == 1


AT_HOME = [
    "The next cell prints 42.", "It prints 1,000 things.", "Chapters 4 and 5 say more; so does chapter 12.",
    "The paper used 16,384 tokens {cite:p}`ramesh2021`.", "See §2.2 for the 8192 codes.",
    "With $V = 16$ and `T = 9` it works.", "Glued: {glue:text}`share` of 1.", "UTF-8 and GPT-2 are names.",
    "**3. An exercise.**", "7. a numbered line", "The vocabulary of 512 is set above.",
    "$$ x = 99 $$ (eq-x)", "[the text](02_world.ipynb#part-3)", "Three small ones, 0 or 1.",
]  # fmt: skip


@pytest.mark.parametrize("words", AT_HOME)
def test_a_number_that_is_at_home_passes(words):
    assert chapters.number_faults(planted(prose=says(words))) == []


def test_definitions_are_allowed_with_a_reason_and_only_where_they_are_used():
    notebook = planted(prose=says("A byte has 256 values."))
    assert len(chapters.number_faults(notebook)) == 1
    notebook.metadata["minidalle"] = {"definitions": {"256": "values of a byte"}}
    assert chapters.number_faults(notebook) == []
    notebook.metadata["minidalle"] = {"definitions": {"256": "", "7": "days"}}
    assert len(chapters.number_faults(notebook)) == 2


def test_a_machines_path_is_found():
    assert chapters.place_faults("saved in /tmp/picture.png") and chapters.place_faults(r"C:\me")
    assert not chapters.place_faults("text/plain, and/or, https://a.org/home/x")


def test_a_changed_half_is_found(tmp_path):
    (tmp_path / "jupytext.toml").write_text((chapters.FOLDER / "jupytext.toml").read_text())
    path = tmp_path / f"{NAME}.ipynb"
    nbformat.write(planted(), path)
    config = chapters.load_jupytext_config(str(path))
    half = jupytext.writes(jupytext.read(path, config=config), fmt="md:myst", config=config)
    path.with_suffix(".md").write_text(half, encoding="utf-8")
    assert chapters.pair_faults(path) == []
    path.with_suffix(".md").write_text(half.replace("Something", "Anything"), encoding="utf-8")
    assert chapters.pair_faults(path)
