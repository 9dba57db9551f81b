"""What the site adds to the chapters: anchors of named cells, the table of chapters, the paper map.

A code cell with ``name: count-pairs`` in its metadata gets the address …/NN_name.html#count-pairs.
``{chapters}`` makes the table of all chapters with their minutes; ``{paper-map}`` the tables of the map.
"""

import json
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parent.parent.parent
MAP = ROOT / "book" / "paper_map"
NOTEBOOKS = ROOT / "notebooks"


def name_cells(app: Sphinx, doctree: nodes.document) -> None:
    """Give every named code cell its name as an id."""
    for node in doctree.findall(nodes.container):
        name = (node.get("cell_metadata") or {}).get("name")
        if name:
            node["ids"].append(name)


def minutes(value: float | None) -> str:
    """0.4 → "24 s", 2.5 → "2.5 min", not measured → "–"."""
    if value is None:
        return "–"
    return f"{value * 60:.0f} s" if value < 1 else f"{value:.1f} min"


def table(headings: list[str], widths: list[int], rows: list[list[nodes.Node]]) -> nodes.table:
    """A docutils table of paragraphs."""
    group = nodes.tgroup(cols=len(widths))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head, body = nodes.thead(), nodes.tbody()
    words = [nodes.paragraph("", heading) for heading in headings]
    for part, lines in ((head, [words]), (body, rows)):
        for cells in lines:
            part += nodes.row("", *[nodes.entry("", cell) for cell in cells])
    group += [head, body]
    return nodes.table("", group, classes=["wide", "colwidths-given"])


class Chapters(SphinxDirective):
    """The table of chapters. Body: ``NN_name | title | what it builds`` a line, in order. A chapter that is
    not written yet has no link and no minutes."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        times = json.loads((NOTEBOOKS / "times.json").read_text(encoding="utf-8"))
        self.env.note_dependency(str(NOTEBOOKS / "times.json"))
        rows = []
        for line in self.content:
            name, title, builds = (part.strip() for part in line.split("|"))
            written = (NOTEBOOKS / f"{name}.ipynb").exists()
            first, words = nodes.paragraph(), f"{int(name[:2])} · {title}"
            uri = self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{name}")
            first += nodes.reference("", words, refuri=uri) if written else nodes.Text(words)
            took = times.get(name, {}) if written else {}
            cells = [builds, *(minutes(took.get(kind)) for kind in ("cpu", "gpu"))]
            rows.append([first, *[nodes.paragraph("", cell) for cell in cells]])
        return [table(["chapter", "what it builds", "CPU", "GPU"], [30, 46, 12, 12], rows)]


class PaperMap(SphinxDirective):
    """A table for each file of the map, in the order of their names."""

    def run(self) -> list[nodes.Node]:
        parts: list[nodes.Node] = []
        for path in sorted(MAP.glob("*.yml")):
            self.env.note_dependency(str(path))
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            section = nodes.section("", nodes.title("", content["title"]), ids=[path.stem])
            rows = [self.row(row) for row in content["rows"]]
            section += table(["paper", "what it says", "where to see it"], [16, 48, 36], rows)
            parts.append(section)
        return parts

    def row(self, row: dict) -> list[nodes.Node]:
        where = nodes.paragraph()
        if "not" in row:
            where += nodes.emphasis("", f"not reproduced: {row['not']}")
        for k, place in enumerate(row.get("shown", [])):
            where += nodes.Text("; " if k else "")
            where += self.link(place)
        return [nodes.paragraph("", row["paper"]), nodes.paragraph("", row["claim"]), where]

    def link(self, place: str) -> nodes.Node:
        """``NN_name#cell`` → a link to that cell; a test's name → the name."""
        if "::" in place:
            return nodes.literal("", place.removeprefix("tests/"))
        name, _, cell = place.partition("#")
        uri = self.env.app.builder.get_relative_uri(self.env.docname, f"notebooks/{name}")
        words = f"chapter {int(name[:2])}, {cell.replace('-', ' ')}"
        return nodes.reference("", words, refuri=f"{uri}#{cell}", internal=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and the naming of cells."""
    app.add_directive("chapters", Chapters)
    app.add_directive("paper-map", PaperMap)
    app.connect("doctree-read", name_cells)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
