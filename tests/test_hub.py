"""The Hugging Face hub: a folder by another name. No test asks the network; a local hub stands in."""

import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from builders import tiny_bundle
from huggingface_hub import errors

import minidalle
from minidalle.bundle import load
from minidalle.bundle_files import BUNDLED, find, load_dvae


class Hub:
    """A hub in a folder: what was uploaded can be downloaded; remembers what it was asked."""

    def __init__(self, root: Path):
        self.root, self.asked = root, []

    def create_repo(self, repo_id, private=False, exist_ok=False):
        self.asked.append(("create", repo_id, private))
        assert exist_ok, "pushing twice must work"
        (self.root / repo_id).mkdir(parents=True, exist_ok=True)
        return f"https://hub.test/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        self.asked.append(("upload", repo_id, commit_message))
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(self, repo_id, revision=None, allow_patterns=None):
        self.asked.append(("download", repo_id, revision))
        if not (self.root / repo_id).is_dir():
            raise errors.LocalEntryNotFoundError("Cannot reach the hub.\nMore words.")
        copy = self.root / "cache" / repo_id
        for name in allow_patterns:
            if (self.root / repo_id / name).exists():
                copy.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.root / repo_id / name, copy / name)
        return str(copy)


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Hub:
    """Stands in for the library's two doors."""
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda library_name: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return hub


def test_what_is_pushed_is_what_loads(hub):
    """Same tokens and pictures; the repository has the files of a folder, and no others."""
    bundle = load(tiny_bundle().save("model"), "cpu")
    assert bundle.push("somebody/my-model") == "https://hub.test/somebody/my-model"
    for path in Path("model").iterdir():
        assert (hub.root / "somebody/my-model" / path.name).read_bytes() == path.read_bytes()
    assert len(list((hub.root / "somebody/my-model").iterdir())) == 6
    loaded = minidalle.load("somebody/my-model", "cpu")
    one, two = (b.draw("a star", n=2, seed=3) for b in (bundle, loaded))
    assert (one.tokens == two.tokens).all() and (one.pictures == two.pictures).all()
    assert hub.asked == [
        ("create", "somebody/my-model", False),
        ("upload", "somebody/my-model", "minidalle tiny-test"),
        ("download", "somebody/my-model", None),
    ]


def test_a_private_model_is_made_private_and_pushing_twice_replaces(hub):
    """The second push is another commit."""
    tiny_bundle().push("a/b", private=True)
    tiny_bundle(seed=1).push("a/b", private=True)
    assert ("create", "a/b", True) in hub.asked
    expected = tiny_bundle(seed=1).dalle.start.half().float()
    assert torch.equal(load("a/b", "cpu").dalle.start, expected)


def test_a_revision_is_asked_for(hub):
    """A branch, a tag or a commit behind the @."""
    tiny_bundle().push("a/b")
    load("a/b@v1.0", "cpu")
    assert hub.asked[-1] == ("download", "a/b", "v1.0")


def test_a_dvae_alone_is_all_that_is_downloaded(hub, monkeypatch):
    """The rest of the model is larger."""
    tiny_bundle().push("a/b")
    files = []
    ours = hub.snapshot_download

    def watch(*arguments, allow_patterns, **settings):
        files.extend(allow_patterns)
        return ours(*arguments, allow_patterns=allow_patterns, **settings)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", watch)
    load_dvae("a/b", "cpu")
    assert sorted(files) == ["README.md", "config.json", "dvae.safetensors"]


def test_a_folder_comes_before_the_hub(hub):
    """runs/ci is a folder if there is one; only a name that is nowhere is asked for."""
    tiny_bundle().save("runs/ci")
    assert find("runs/ci") == Path("runs/ci") and hub.asked == []
    find("tiny")
    with pytest.raises(
        FileNotFoundError, match="no folder 'runs/cj'.*Cannot reach the hub"
    ) as error:
        find("runs/cj")
    assert "More words" not in str(error.value)
    assert hub.asked == [("download", "runs/cj", None)]


def test_a_path_is_never_a_bundled_model(hub, monkeypatch):
    """A run may be called like one: "tiny" is ours, "./tiny" and Path("tiny") are the reader's."""
    tiny_bundle().save("tiny")
    for path in ("./tiny", Path("tiny"), Path("tiny").absolute()):
        assert find(path) == Path(path) and load(path, "cpu").name == "tiny-test"
    assert find("tiny") == BUNDLED / "tiny"
    monkeypatch.chdir("tiny")
    assert find(".") == Path(".") and hub.asked == []


@pytest.mark.parametrize(
    "name", ["nowhere", "a/b/c", "../b", "/a/b", "a/", "./b", "a b/c", "a/b@", "@/b", ""]
)
def test_other_names_never_reach_the_hub(hub, name):
    """Only OWNER/NAME[@REVISION] does; a `Path` is a folder."""
    with pytest.raises(FileNotFoundError):
        find(name or "-")
    with pytest.raises(FileNotFoundError, match="no model 'a/b'"):
        find(Path("a/b"))
    assert hub.asked == []


def test_a_repository_of_something_else_is_no_model(hub):
    """The missing file is named; damaged files are as in a folder."""
    (hub.root / "a/b").mkdir(parents=True)
    (hub.root / "a/b" / "config.json").write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=r"b is no complete model: tokenizer\.json is missing"
    ):
        load("a/b")
    tiny_bundle().push("a/c")
    path = hub.root / "a/c" / "dalle.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"dalle\.safetensors is damaged"):
        load("a/c")


@pytest.mark.parametrize(
    "error",
    [
        errors.OfflineModeIsEnabled("offline mode is enabled"),
        errors.HFValidationError("bad name"),
        ConnectionError("no route to host"),
        RuntimeError("something of the transport's"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_library_raises_is_one_sentence(hub, monkeypatch, error):
    """Offline, refused, unknown: the reason is passed on, for both directions."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(FileNotFoundError, match=f"no folder 'a/b', and the hub .*: {error}"):
        load("a/b")
    hub.create_repo = fail
    with pytest.raises(OSError, match=f"the hub did not take a/b: {error}"):
        tiny_bundle().push("a/b")


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    """For both directions."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=r"no folder 'a/b'.*pip install 'minidalle\[hub\]'"):
        load("a/b")
    with pytest.raises(ValueError, match=r"pip install 'minidalle\[hub\]'"):
        tiny_bundle().push("a/b")


@pytest.mark.parametrize("name", ["model", "a/b/c", "a/b@main", "/a", "a/../b", ""])
def test_a_name_that_is_none_is_refused_before_anything_is_written(hub, name):
    """OWNER/NAME and nothing else."""
    with pytest.raises(ValueError, match="OWNER/NAME"):
        tiny_bundle().push(name)
    assert hub.asked == []


def test_the_library_is_loaded_only_when_the_hub_is_asked():
    """Loading from a folder needs none of it."""
    code = "import sys, minidalle; minidalle.load('tiny', 'cpu'); print('huggingface_hub' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "False\n", answer.stderr
