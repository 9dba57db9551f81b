"""One way through the house, and no way back: who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import minidalle

PACKAGE = Path(minidalle.__file__).parent
FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.parent.name != "checks"
}
MODELS = ("tokenizer", "dvae", "schedules", "masks", "transformer", "dalle", "clip")
ABOVE = {
    "show",
    "figures",
    "chapter",
    "train",
    "stages",
    "hub",
    "cli",
    "examine",
    "examiner",
    "questions",
    "image_prompts",
    "candidates",
    "gallery",
    "scores",
    "scorecard",
    "bundle",
    "bundle_files",
    "presets",
    "generate",
    "data",
    "optim",
    "checkpoint",
    "log",
    "powersgd",
    "processes",
    "tokens",
    "loop",
    "precision",
    "adamw",
    "counts",
    "plan",
    "cluster",
}


def imports(path: Path) -> set[str]:
    """Rooms of the package and outside packages that a file imports, wherever in the file."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = [] if node.level == 0 else list(("minidalle", *parts)[: -node.level])
            base += [node.module] if node.module else []
            whole = ".".join(base)
            found.add(whole)
            if whole == "minidalle" or not node.module:  # "from . import dvae"
                found |= {f"{whole}.{alias.name}" for alias in node.names}
    return {name.removeprefix("minidalle.") for name in found}


def rooms(path: Path) -> set[str]:
    """The rooms (top level of the package) that a file imports."""
    known = {name.split(".")[0] for name in FILES}
    return {name.split(".")[0] for name in imports(path)} & known


def test_the_rooms_are_found():
    """The reader of imports works: some that are certain."""
    assert {"dalle", "generate", "tokenizer"} <= rooms(FILES["bundle"])
    assert rooms(FILES["world.attributes"]) <= {"world"}
    assert "examine" in rooms(FILES["cli"]), "also inside functions"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("world")])
def test_the_world_knows_nothing_of_the_models(name):
    """It imports itself and no torch."""
    assert rooms(FILES[name]) <= {"world"}
    assert not {each.split(".")[0] for each in imports(FILES[name])} & {"torch", "minidalle"}


@pytest.mark.parametrize("name", MODELS)
def test_models_know_nothing_of_what_stands_above_them(name):
    """No drawing, no training, no command line, no judge, no files in them."""
    assert not rooms(FILES[name]) & (ABOVE | {"world"})


def test_no_room_imports_one_that_comes_later():
    """Without circles: every room can be read before those that use it."""
    left: dict[str, set[str]] = {}
    for name, path in FILES.items():  # a room of several files is ready when all of them are
        room = name.split(".")[0]
        left.setdefault(room, set()).update(rooms(path) - {room})
    done: set[str] = set()
    while left:
        ready = [name for name, needs in left.items() if needs <= done | {"world", "checks"}]
        assert ready, f"a circle among {sorted(left)}"
        done |= set(ready)
        for name in ready:
            del left[name]


JUDGING = {"examiner", "questions", "examine", "image_prompts", "gallery"}


def test_nothing_that_draws_or_ranks_knows_the_judge():
    """What judges is known to the command line and to itself, and never used for drawing or choosing."""
    for name, path in FILES.items():
        if name.split(".")[0] not in {"cli", *JUDGING}:
            assert not rooms(path) & JUDGING, name


def test_only_three_rooms_stand_above_training():
    """The command line, the judge, and what notebooks begin with; nothing that draws needs what trains."""
    users = {name for name, path in FILES.items() if "train" in rooms(path)}
    assert users <= {"cli", "examine", "chapter"}
    inner = {"train", "stages", "loop"}
    for room in ("stages", "loop", "powersgd", "processes"):
        assert {n for n, path in FILES.items() if room in rooms(path)} <= inner, room


def test_nothing_is_pickled():
    """No room imports what reads or writes pickles, or calls what does so inside PyTorch and NumPy."""
    for name, path in FILES.items():
        assert not imports(path) & {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}, (
            name
        )
        text = path.read_text(encoding="utf-8")
        for call in ("torch.load(", "torch.save(", "allow_pickle", "save_state(", "load_state("):
            assert call not in text, (name, call)


def test_only_notebooks_use_the_room_of_the_notebooks():
    """Nothing in the package needs `chapter`."""
    assert not {name for name, path in FILES.items() if "chapter" in rooms(path)}


def test_importing_has_no_side_effects():
    """No plotting, notebook or launcher packages are loaded, nothing is printed, no seed is moved."""
    code = """
import random, sys
import torch
state, threads, own = torch.get_rng_state(), torch.get_num_threads(), random.getstate()
grad, dtype = torch.is_grad_enabled(), torch.get_default_dtype()
import minidalle, minidalle.cli
assert torch.equal(state, torch.get_rng_state()) and own == random.getstate()
assert threads == torch.get_num_threads()
assert grad == torch.is_grad_enabled() and dtype == torch.get_default_dtype()
heavy = {"matplotlib", "jupyter", "accelerate", "IPython", "ipywidgets", "pandas"}
heavy |= {"transformers", "torchvision", "tensorboard", "tensorflow"}
loaded = heavy & {name.split(".")[0] for name in sys.modules}
assert not loaded, loaded
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:minidalle", "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "" and run.stderr == ""
