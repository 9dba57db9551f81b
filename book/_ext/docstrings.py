"""What the API pages need: docstrings of the package are plain text; Sphinx takes reStructuredText.

An indented block is shown as it stands, `names` in backticks become links where they are documented, and
"Chapter 5" leads to that chapter. No sections as napoleon reads them: our docstrings have none.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

NOTEBOOKS = Path(__file__).parent.parent.parent / "notebooks"
QUOTED = re.compile(r"(``[^`]+``|`[^`]+`)")
CHAPTERS = re.compile(r"\b[Cc]hapters? (?:\d+(?:, | and | to )?)+")


def as_rst(app: Sphinx, what: str, name: str, obj: object, options: dict, lines: list[str]) -> None:
    """Rewrite a docstring's lines in place."""
    text = [""]
    for line in lines:
        indented = line.startswith(" ")
        if indented and not text[-1]:  # the first line of a block
            text += ["::", ""]
        within = indented and (not text[-1] or text[-1].startswith(" "))
        text.append(line if within else inline(line))
    lines[:] = text[1:]


def inline(line: str) -> str:
    """A line outside of indented blocks: quoted names, numbers of chapters, everything else literally."""
    parts = []
    for part in QUOTED.split(line):
        if not part.startswith("`"):
            plain = re.sub(r"([\\|_]|(?<=\s)\*(?=\s)|\*\*)", r"\\\1", part)
            parts.append(CHAPTERS.sub(with_links, plain))
        elif re.fullmatch(r"`[\w.]+`", part):
            parts.append(f":py:obj:{part}\\ ")
        else:
            parts.append(f"``{part.strip('`')}``\\ ")
    return "".join(parts)


def with_links(found: re.Match) -> str:
    """Numbers of chapters that are written become links."""
    return re.sub(r"\d+", lambda number: chapter(int(number[0])), found[0])


def chapter(number: int) -> str:
    """A link to the chapter, or its number alone."""
    for path in NOTEBOOKS.glob(f"{number:02}_*.ipynb"):
        return f":doc:`{number} </notebooks/{path.stem}>`"
    return str(number)


def readable(
    app: Sphinx, what: str, name: str, obj: object, options: dict, signature: str, returns: str
) -> tuple[str, str] | None:
    """A default that has no source text, like a dataclass's <factory>, is three dots: Python can read it."""
    return (re.sub(r"= <[^=]*>", "= ...", signature), returns) if signature else None


def leave_out(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: dict
) -> bool | None:
    """The fields of named tuples, whose generated docstrings say nothing, are not shown."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field") else None


def unlinked(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.TextElement | None:
    """A quoted name that is no documented object (an argument, a file) stays as it is, without a warning."""
    return contnode if node.get("reftype") == "obj" else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect all of it."""
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-process-signature", readable)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("missing-reference", unlinked)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
