"""Nothing is unpickled, anywhere: the source of package, book, notebooks and benchmarks is walked for it."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Modules that rebuild objects from bytes, and calls that use them without saying so.
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MODULES |= {"jsonpickle", "hickle", "pickle5"}
CALLS = {
    "Unpickler",
    "allow_pickle",  # of numpy.load
    "load_checkpoint",
    "load_from_checkpoint",
    "load_state",  # of accelerate: torch.load
    "load_state_dict_from_url",
    "read_pickle",  # of pandas
    "weights_only",
}
ATTRIBUTES = {"torch.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"}


def suspicious(source: str) -> list[str]:
    """What in a Python source could unpickle something, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = set()
        if isinstance(node, ast.Import):
            names = {part for alias in node.names for part in alias.name.split(".")}
            if any(alias.name == "torch" and alias.asname for alias in node.names):
                names.add("torch.load")  # could be called under any name
        elif isinstance(node, ast.ImportFrom):
            names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names = {node.attr, ast.unparse(node)}
        elif isinstance(node, ast.Name):
            names = {node.id}
        elif isinstance(node, ast.keyword):
            names = {node.arg}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = {node.value} & MODULES  # for __import__ and importlib
        bad = names & (MODULES | CALLS | ATTRIBUTES)
        found += [f"line {getattr(node, 'lineno', '?')}: {name}" for name in sorted(bad)]
    return found


def plain(cell: str) -> str:
    """A notebook's cell as Python: lines for the shell and magics left out, `%%` cells as a whole."""
    if cell.lstrip().startswith("%%"):
        return ""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", cell, flags=re.MULTILINE)


def sources() -> dict[str, str]:
    """Every Python source of the project but the tests: files, cells of notebooks, code in pages."""
    found = {}
    for folder in ("minidalle", "book", "notebooks", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            name = str(path.relative_to(ROOT))
            if "_build" in path.parts or any(part.startswith(".") for part in path.parts[-2:]):
                continue
            if path.suffix == ".py":
                found[name] = path.read_text(encoding="utf-8")
            elif path.suffix == ".ipynb":
                cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
                code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
                found[name] = "\n".join(map(plain, code))
            elif path.suffix == ".md":
                fences = r"^```\{?(?:code-cell|python)\b.*?\n(.*?)^```"
                blocks = re.findall(fences, path.read_text(encoding="utf-8"), re.M | re.S)
                found[name] = "\n".join(
                    plain(re.sub(r"^(:|---$).*", "", b, flags=re.M)) for b in blocks
                )
    return found


SOURCES = sources()


def test_the_sources_are_found():
    """All kinds of them."""
    assert {
        "minidalle/bundle.py",
        "minidalle/world/attributes.py",
        "notebooks/00_start.ipynb",
    } <= set(SOURCES)
    assert "minidalle.load" in SOURCES["notebooks/00_start.ipynb"]
    assert any(name.startswith("book/") for name in SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_nothing_is_ever_unpickled(name):
    """No module that unpickles is imported and nothing that does is called."""
    try:
        assert not suspicious(SOURCES[name])
    except SyntaxError:  # a page shows a fragment of code
        words = r"\b(c?pickle|dill|joblib|marshal|shelve|Unpickler|allow_pickle|torch\.load)\b"
        assert name.endswith(".md") and not re.search(words, SOURCES[name])


GUILTY = """import pickle
import pickle as p
from pickle import loads
from torch import load
import torch; torch.load("x")
import torch as t; t.load("x")
from elsewhere import load; load("x", weights_only=True)
import numpy as np; np.load("x", allow_pickle=True)
import dill
import joblib
import marshal
import shelve
import cloudpickle.something
from joblib import load
from some.pickle import thing
import importlib; importlib.import_module("pickle")
__import__("_pickle")
class Own(pickle.Unpickler): pass
import pandas as pd; pd.read_pickle("x")
accelerator.load_state("x")
torch.hub.load("a", "b")
load = torch.jit.load
""".splitlines()


@pytest.mark.parametrize("line", GUILTY)
def test_the_walk_finds_what_it_looks_for(line):
    """Every way that we know of."""
    assert suspicious(line)


@pytest.mark.parametrize(
    "line",
    [
        "import pickletools; pickletools.genops(file)",
        "from safetensors.torch import load_file",
        "import json; json.loads('1')",
        "model.load_state_dict(tensors)",
        "'''Nothing is unpickled: no pickle.'''",
        "import numpy as np; np.load('x')",
    ],
)
def test_the_walk_is_silent_about_the_rest(line):
    """Reading a pickle's instructions without following them is no unpickling; numpy refuses by itself."""
    assert not suspicious(line)
