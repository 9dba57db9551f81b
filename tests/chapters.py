"""What every chapter must be: each rule is a function from a notebook to the faults it finds.

`test_notebooks` applies them to the chapters, `test_chapters` to planted ones that break them.
"""

import ast
import base64
import importlib.util
import re
from html.parser import HTMLParser
from pathlib import Path

import jupytext
from jupytext.config import load_jupytext_config
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "notebooks"
LONGEST_CELL = 15  # lines
LONGEST_LINE = 88  # characters of code, so that a page on a laptop need not be scrolled
LARGEST_PICTURE = 150_000  # bytes of its PNG
LARGEST_OUTPUT = 1_500_000  # characters of a cell's HTML
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|home|root|tmp|Users|content|mnt|var)/|\b[A-Z]:\\\\?\w")
DATA_URI = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
CLOSE = (
    "Exercises", "What we left out", "What the paper did", "In five lines", "Questions",
    "Further reading",
)  # fmt: skip


def _runner():
    spec = importlib.util.spec_from_file_location("run_chapters", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run = _runner()  # notebooks/run.py, which writes what is generated

# ------------------------------------------------------------------------------------ reading


class Images(HTMLParser):
    """Collects the attributes of every <img>."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.found.append(dict(attrs))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    return [cell for cell in code_cells(notebook) if tag in cell.metadata.get("tags", [])]


def prose(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def html_of(output: NotebookNode) -> str:
    return "".join(output.get("data", {}).get("text/html", ""))


def all_html(cell: NotebookNode) -> str:
    return "\n".join(html_of(output) for output in cell.outputs)


def printed(cell: NotebookNode) -> str:
    """All text that a reader finds in a cell's outputs, alt texts included."""
    parts = []
    for output in cell.outputs:
        html = DATA_URI.sub("", html_of(output))
        alts = [image.get("alt") or "" for image in Images(html).found]
        data = output.get("data", {})
        parts += [output.get("text", ""), data.get("text/plain", ""), re.sub("<[^>]*>", " ", html)]
        parts += alts
    return "\n".join(parts)


def sections(notebook: NotebookNode) -> dict[str, str]:
    """Heading of the second level → the text below it."""
    parts = re.split(r"^## (.+)$", prose(notebook), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# -------------------------------------------------------------------------------------- rules


def pair_faults(path: Path) -> list[str]:
    """Both halves hold the same cells."""
    config = load_jupytext_config(str(path))
    text = jupytext.writes(jupytext.read(path, config=config), fmt="md:myst", config=config)
    if text == path.with_suffix(".md").read_text(encoding="utf-8"):
        return []
    return [f"the halves differ; run: python notebooks/run.py {path.stem}"]


def run_faults(notebook: NotebookNode) -> list[str]:
    """Every cell ran, in order, without an error, and its output is stored."""
    cells, faults = code_cells(notebook), []
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        faults.append("not every cell was run once and in order")
    for cell in cells:
        if any(output.output_type == "error" for output in cell.outputs):
            faults.append(f"stopped with an error:\n{cell.source}")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            faults.append(f"a warning is stored:\n{cell.source}")
        if not cell.outputs and isinstance(ast.parse(cell.source).body[-1], ast.Expr):
            faults.append(f"no output stored:\n{cell.source}")
    return faults


def picture_faults(notebook: NotebookNode) -> list[str]:
    """There are pictures; each is described and light."""
    faults, count = [], 0
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for image in Images(html_of(output)).found:
                count += 1
                if not (image.get("alt") or "").strip():
                    faults.append(f"an <img> without alt:\n{cell.source}")
            if any(kind.startswith("image/") for kind in output.get("data", {})):
                faults.append(f"a bare image; return minidalle.figures.plotted(…):\n{cell.source}")
        sizes = [len(base64.b64decode(data)) for data in DATA_URI.findall(all_html(cell))]
        if sizes and max(sizes) > LARGEST_PICTURE:
            faults.append(f"a picture of {max(sizes):,} bytes:\n{cell.source}")
        if len(all_html(cell)) > LARGEST_OUTPUT:
            faults.append(f"an output of {len(all_html(cell)):,} characters:\n{cell.source}")
    if re.search(r"!\[\s*\]\(", prose(notebook)):
        faults.append("a markdown picture without a description")
    return faults + ["no picture"] * (not count)


def slider_faults(notebook: NotebookNode) -> list[str]:
    """One figure at least has a knob, and no dead widget is stored."""
    html = "\n".join(map(all_html, code_cells(notebook)))
    faults = [] if 'class="minidalle-slider"' in html else ["no slider"]
    kinds = {k for cell in code_cells(notebook) for o in cell.outputs for k in o.get("data", {})}
    return faults + ["a stored widget, dead on the page"] * any("widget" in kind for kind in kinds)


def length_faults(notebook: NotebookNode) -> list[str]:
    """Code cells are short, and so are their lines."""
    long = [c.source for c in code_cells(notebook) if len(c.source.splitlines()) > LONGEST_CELL]
    faults = [f"{len(source.splitlines())} lines:\n{source}" for source in long]
    lines = [line for c in code_cells(notebook) for line in c.source.splitlines()]
    return faults + [f"{len(x)} characters: {x}" for x in lines if len(x) > LONGEST_LINE]


def place_faults(text: str) -> list[str]:
    """No path of somebody's machine."""
    text = DATA_URI.sub("", text)
    found = MACHINE_PATH.search(text)
    return [f"…{text[max(0, found.start() - 40) : found.end() + 40]}…"] if found else []


def header_faults(notebook: NotebookNode, name: str) -> list[str]:
    """Title, goals, what is needed before, minutes from the table; setup cell, then settings cell."""
    head, faults = prose(notebook).split("\n## ")[0], []
    if not head.startswith(f"# {int(name[:2])} · "):
        faults.append(f"the title does not begin with '# {int(name[:2])} · '")
    if len(re.findall(r"^- ", head.partition("After it you can")[2], re.MULTILINE)) < 3:
        faults.append("no list of three goals or more after 'After it you can'")
    if not re.search(r"^\*\*Before it\.\*\* \w", head, re.MULTILINE):
        faults.append("no line '**Before it.** …'")
    if run.time_line(name) not in head.splitlines():
        faults.append(f"the header lacks the line: {run.time_line(name)}")
    for tag in ("setup", "settings"):
        if len(tagged(notebook, tag)) != 1:
            faults.append(f"{len(tagged(notebook, tag))} cells tagged {tag!r}, not 1")
    first = code_cells(notebook)[0]
    if "setup" not in first.metadata.get("tags", []) or first.source != run.setup_cell():
        faults.append("the first code cell is not the setup cell of notebooks/run.py")
    return faults


def close_faults(notebook: NotebookNode) -> list[str]:
    """The last sections, in order, and what must be in them."""
    found, faults = sections(notebook), []
    if (last := tuple(found)[-len(CLOSE) :]) != CLOSE:
        return [f"the last sections are {', '.join(last)}; they must be {', '.join(CLOSE)}"]
    if (lines := len(re.findall(r"^- ", found["In five lines"], re.MULTILINE))) != 5:
        faults.append(f"'In five lines' has {lines} lines")
    if len(re.findall(r"^\d\. ", found["Questions"], re.MULTILINE)) < 3:
        faults.append("fewer than three questions")
    if len(re.findall(r"\{cite", found["Further reading"])) < 2:
        faults.append("fewer than two citations in 'Further reading'")
    if not re.search(r"§|appendix", found["What the paper did"]):
        faults.append("'What the paper did' names no section of the paper")
    return faults


def assert_faults(notebook: NotebookNode, fewest: int = 5) -> list[str]:
    """Assertions carry the truth."""
    nodes = [node for c in code_cells(notebook) for node in ast.walk(ast.parse(c.source))]
    count = sum(isinstance(node, ast.Assert) for node in nodes)
    return [] if count >= fewest else [f"{count} assertions, fewer than {fewest}"]


def exercise_faults(notebook: NotebookNode) -> list[str]:
    """Two or more: a stub of one function with a docstring, a hint, and a hidden solution that is checked."""
    stubs, solutions = tagged(notebook, "exercise"), tagged(notebook, "solution")
    if len(stubs) < 2 or len(stubs) != len(solutions):
        return [f"{len(stubs)} cells tagged 'exercise', {len(solutions)} tagged 'solution'"]
    faults = []
    hints = prose(notebook).count("<summary>Hint</summary>")
    if hints < len(stubs):
        faults.append(f"{hints} hints for {len(stubs)} exercises")
    for stub, solution in zip(stubs, solutions, strict=True):
        asked, given = ast.parse(stub.source).body[0], ast.parse(solution.source).body[0]
        if not isinstance(asked, ast.FunctionDef) or not ast.get_docstring(asked):
            faults.append(f"an exercise begins with a function and its docstring:\n{stub.source}")
            continue
        if not isinstance(given, ast.FunctionDef) or given.name != asked.name:
            faults.append(f"the solution of {asked.name} begins with something else")
        elif ast.dump(given.args) != ast.dump(asked.args):
            faults.append(f"{asked.name} has other arguments in its solution")
        if not assert_faults(notebook, 0) and "assert " not in solution.source:
            faults.append(f"the solution of {asked.name} asserts nothing")
        if "hide-cell" not in solution.metadata.tags:
            faults.append(f"the solution of {asked.name} is not folded (tag hide-cell)")
    return faults


# ------------------------------------------------------------------------ numbers in sentences

NUMBER = re.compile(
    r"(?<![\w.])(?<![A-Za-z]-)\d+(?:[.,\u202f]\d+)*|\b(?:hundred|thousand|million|billion)s?\b"
)
UNSEEN = re.compile(  # what is no prose: code, mathematics, glued values, addresses, tags, list numbers
    r"```.*?```|\$\$.*?\$\$|`[^`]*`|\$[^$]*\$|\{glue[^}]*\}|\]\([^)]*\)|<[^>]*>|^#+ \d+ · |^\d+\. "
    r"|^\*\*\d+\. |^\*\*Time\.\*\* .*?$|\b[Cc]hapters? \d+(?:(?:, | and | to |–)\d+)*",
    re.DOTALL | re.MULTILINE,
)
CITED = re.compile(r"\{cite|§|\bappendix\b")
FREE = {"0", "1"}


def number_faults(notebook: NotebookNode) -> list[str]:
    """Sentences whose numbers come from nowhere.

    A number is at home in the text, alt text or source of the code cells directly before or after it, in
    the source of the settings cell, in a sentence with a citation or a section of the paper (§), in
    mathematics, in code, or among the chapter's definitions (metadata ``minidalle: {definitions: {number:
    reason}}``). 0 and 1 are free.
    """
    definitions = notebook.metadata.get("minidalle", {}).get("definitions", {})
    faults = [f"definition {key!r} has no reason" for key, why in definitions.items() if not why]
    settings = numbers("\n".join(cell.source for cell in tagged(notebook, "settings")))
    used = set()
    for k, cell in enumerate(notebook.cells):
        if cell.cell_type != "markdown":
            continue
        beside = numbers("\n".join(printed(c) + "\n" + c.source for c in neighbours(notebook, k)))
        for sentence in sentences(UNSEEN.sub(" ", cell.source)):
            found = numbers(sentence) - FREE
            used |= found & set(definitions)
            lost = found - beside - settings - set(definitions)
            if lost and not CITED.search(sentence):
                faults.append(f"{', '.join(sorted(lost))} in: {sentence.strip()}")
    unused = set(definitions) - used
    return faults + [f"definition {key!r} is not used" for key in sorted(unused)]


def sentences(markdown: str) -> list[str]:
    """Sentences and list items."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z“*\[])|\n\s*\n|\n(?=[-*] |\d+\. )", markdown)


def numbers(text: str) -> set[str]:
    """The numbers of a text, without separators of thousands."""
    text = re.sub(r"(?<=\d)[_\u202f](?=\d{3})", ",", text)
    return {re.sub(r",(?=\d{3})", "", found.lower()) for found in NUMBER.findall(text)}


def neighbours(notebook: NotebookNode, k: int) -> list[NotebookNode]:
    """The code cells directly before and after cell k."""
    found = []
    for step in (-1, 1):
        j = k + step
        while 0 <= j < len(notebook.cells) and notebook.cells[j].cell_type == "code":
            found.append(notebook.cells[j])
            j += step
    return found
