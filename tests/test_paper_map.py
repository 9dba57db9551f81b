"""The paper map: every row is whole, and every link leads to a cell or a test that exists."""

import ast
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "book" / "paper_map").glob("*.yml"))
KINDS = ("claim", "equation", "hyperparameter")


def faults(content: dict) -> list[str]:
    """What is wrong with one file of the map."""
    found = [] if content.get("title") else ["no title"]
    for row in content["rows"]:
        said = f"“{row.get('claim', '?')[:50]}”"
        if not row.get("claim") or not str(row.get("paper", "")).startswith(
            ("§", "appendix", "figure")
        ):
            found.append(f"{said}: claim or place in the paper is missing")
        if row.get("kind") not in KINDS:
            found.append(f"{said}: kind {row.get('kind')!r} is none of {KINDS}")
        if bool(row.get("shown")) == bool(row.get("not")):
            found.append(f"{said}: either shown or not, with its reason")
        found += [
            f"{said}: {place} leads nowhere" for place in row.get("shown", []) if not leads(place)
        ]
    return found


def leads(place: str) -> bool:
    """Whether NN_name#cell names a cell, or tests/file.py::test a test."""
    name, mark, cell = place.partition("::" if "::" in place else "#")
    path = ROOT / name if mark == "::" else ROOT / "notebooks" / f"{name}.ipynb"
    if not mark or not path.exists():
        return False
    if mark == "::":
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return cell in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    cells = nbformat.read(path, as_version=4).cells
    return [each.metadata.get("name") for each in cells].count(cell) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_is_whole_and_leads_somewhere(path):
    """A claim, its place in the paper, and where to see it or why not."""
    found = faults(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert not found, "\n".join(found)


GOOD = {"claim": "x", "paper": "§2.2", "kind": "claim", "not": "too large"}
BAD = {
    "no claim": {**GOOD, "claim": ""},
    "no section": {**GOOD, "paper": ""},
    "an unknown kind": {**GOOD, "kind": "rumour"},
    "no reason": {**GOOD, "not": ""},
    "shown and not": {**GOOD, "shown": ["tests/test_paper_map.py::test_a_fault_is_found"]},
    "no such test": {**GOOD, "not": "", "shown": ["tests/test_paper_map.py::test_nothing"]},
    "no such cell": {**GOOD, "not": "", "shown": ["03_text_tokens#nothing"]},
    "no such chapter": {**GOOD, "not": "", "shown": ["99_end#same-merges"]},
    "no mark": {**GOOD, "not": "", "shown": ["03_text_tokens"]},
}


@pytest.mark.parametrize("row", BAD.values(), ids=BAD)
def test_a_fault_is_found(row):
    """Each planted row is caught, and a good one passes."""
    assert len(faults({"title": "t", "rows": [row]})) == 1
    assert not faults({"title": "t", "rows": [GOOD]})
