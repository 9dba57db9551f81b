"""Set-up: the README's commands, the three lists of packages, the licence, CI."""

import contextlib
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What the owner of the project fixed.
FIXED = {"torch", "jupyter", "jupytext", "matplotlib", "ipywidgets", "tokenizers", "nbval"}


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def requirements() -> list[Requirement]:
    """Everything that the package and its extras ask for."""
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    every = [Requirement(line) for line in PROJECT["dependencies"] + extras]
    here = [each for each in every if each.marker is None or each.marker.evaluate()]
    return [each for each in here if each.name != "minidalle"]


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", pin.name).lower(): pin for pin in pins}


def test_the_first_two_commands_of_the_readme():
    """Draw, then test: nothing else stands before them."""
    first, second = shell_blocks()[:2]
    assert first == 'make draw CAPTION="a small red circle above a blue square"\n'
    assert second == "make test\n"


def test_ci_runs_the_readmes_test_command():
    """And that command runs pytest over everything, slow tests included."""
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith(shell_blocks()[1].strip())
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    dry = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True).stdout
    assert re.search(r"-m pytest -n 2 --dist loadfile$", dry, re.MULTILINE)


def test_requirements_are_lower_bounds_only():
    """A reader's own torch and numpy stay untouched; Jupyter Book alone has a ceiling, 2.x being
    another program."""
    for each in requirements():
        operators = sorted(spec.operator for spec in each.specifier)
        assert operators == (["<", ">="] if each.name == "jupyter-book" else [">="]), each


def test_a_pillow_that_draws_other_pictures_is_not_enough():
    """Under 11.1 the recorded pictures of nine families fail in test_world.py, under 11.2.1 none."""
    (pillow,) = [each.specifier for each in requirements() if each.name == "pillow"]
    assert not pillow.contains("11.1.0") and pillow.contains("11.2.1")


def test_constraints_pin_everything_that_is_asked_for():
    """Each requirement has a pin that satisfies it; torch is the version that CI runs."""
    pins = constraints()
    for each in requirements():
        (pin,) = pins[each.name.lower()].specifier
        assert pin.operator == "==" and each.specifier.contains(Version(pin.version)), each
    assert str(pins["torch"].specifier) == "==2.13.0"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 installs without the pins")
@pytest.mark.parametrize(
    "python", [*(f"3.11.{patch}" for patch in range(16)), "3.12.0", "3.13.0", "3.14.0"]
)
def test_constraints_fit_every_python_that_the_makefile_gives_them_to(python):
    """Some packages ask for a late patch of 3.11: pip on Debian's 3.11.2 would search for ten minutes
    and give up. Those not installed here (of another system) are left to the machine that has them."""
    asked = {}
    for name, pin in constraints().items():
        with contextlib.suppress(PackageNotFoundError):
            if pin.specifier.contains(version(name)):
                asked[name] = SpecifierSet(metadata(name)["Requires-Python"] or "")
    assert len(asked) > 100
    refused = {name: str(needs) for name, needs in asked.items() if not needs.contains(python)}
    assert not refused, f"Python {python} cannot install {refused}: pin releases that it can"


def test_fixed_packages_are_all_there():
    """The packages that the project's owner chose."""
    assert {each.name for each in requirements()} >= FIXED


def pip_part() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (part,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    return part


def test_environment_yml_installs_from_the_same_sources():
    """Python and pip from conda, everything else by pip from pyproject.toml and constraints.txt."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "minidalle" and environment["channels"] == ["conda-forge"]
    others = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert [re.match(r"\w+", entry).group() for entry in others] == ["python", "pip"]
    assert pip_part() == ["-c constraints.txt", "-e .[test]"]


@pytest.mark.slow
def test_the_pip_part_of_environment_yml_resolves(tmp_path):
    """pip finds a consistent set for it; nothing is installed."""
    lines = [
        line.replace("-c ", f"-c {ROOT}/").replace("-e .", f"-e {ROOT}") for line in pip_part()
    ]
    (tmp_path / "pip.txt").write_text("\n".join(lines))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "-r", str(tmp_path / "pip.txt")]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_make_draw_works_in_a_fresh_clone(tmp_path):
    """The README's first command as written: new environment, install, picture at the printed path."""
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file():
            copy = tmp_path / "clone" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    command = ["bash", "-c", shell_blocks()[0]]
    plain = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE"))
    }
    answer = subprocess.run(
        command, cwd=tmp_path / "clone", env=plain, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    picture = Path(re.search(r"pictures in (.+\.png)", answer.stdout).group(1))
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.is_relative_to(tmp_path / "clone")


def test_both_licences_are_stated():
    """MIT for code, CC BY 4.0 for text, figures and weights."""
    text = (ROOT / "LICENSE").read_text()
    assert "MIT License" in text and "CC BY 4.0" in text
    assert PROJECT["license"] == "MIT AND CC-BY-4.0"


def test_nothing_in_the_project_names_a_machines_path():
    """No absolute path of somebody's machine in any text file of the repository."""
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    for name in files:
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".yml", ".txt", ".json", ".cfg")
            and path.is_file()
        ):
            assert not re.search(r"(?<![\w.])/(work|home|root|Users)/\w", path.read_text()), name
