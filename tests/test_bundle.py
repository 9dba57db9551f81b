"""A bundle on disk: complete and unchanged, or a clear error that names the file."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import tiny_bundle
from safetensors.torch import load_file, save_file

import minidalle
import minidalle.bundle as room
from minidalle.bundle import NAMES, Bundle, load
from minidalle.files import fingerprint


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A bundle on disk, which no test may change."""
    return tiny_bundle().save(tmp_path_factory.mktemp("bundle") / "new" / "folder")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy of it, to damage."""
    return shutil.copytree(saved, tmp_path / "model")


def edit(path: Path, change) -> None:
    """Apply a change to the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------- round trip


def test_a_saved_bundle_draws_identical_pictures(saved, tmp_path):
    """Load, save, load: same tokens, same pixels, and every file has the same bytes."""
    one = load(saved, "cpu")
    two = load(one.save(tmp_path / "again"), "cpu")
    first, second = (b.draw(["a red circle", "a star"], n=3, seed=4) for b in (one, two))
    assert (first.tokens == second.tokens).all() and (first.pictures == second.pictures).all()
    for name in (*NAMES, "README.md"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_is_saved_is_the_model_in_16_bit(saved):
    """Everything comes back as it was, weights rounded to half precision and computed with in 32 bit."""
    original, loaded = tiny_bundle(), load(saved, "cpu")
    assert (loaded.name, loaded.card) == (original.name, original.card)
    assert loaded.dvae.config == original.dvae.config
    assert loaded.dalle.config == original.dalle.config
    assert loaded.tokenizer.to_json() == original.tokenizer.to_json()
    for part in ("dvae", "dalle"):
        old, new = getattr(original, part).state_dict(), getattr(loaded, part).state_dict()
        assert old.keys() == new.keys()
        for name, tensor in new.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, old[name].half().float())
        assert not getattr(loaded, part).training


def test_a_bundle_has_its_files_and_no_others(saved):
    """config.json, tokenizer, two weights and the card; no temporary file is left."""
    assert sorted(path.name for path in saved.iterdir()) == sorted([*NAMES, "README.md"])


def test_a_card_is_optional(folder):
    """Without README.md the bundle still loads."""
    (folder / "README.md").unlink()
    assert load(folder, "cpu").card == ""


# ---------------------------------------------------------------------------------------- drawing


def test_drawing_is_a_function_of_its_arguments(saved):
    """Same seed, same pictures; a single caption needs no list; uint8 pictures of the dVAE's size."""
    bundle = load(saved, "cpu")
    drawing = bundle.draw("a red circle", n=3, seed=1)
    assert drawing.pictures.shape == (3, 8, 8, 3) and drawing.pictures.dtype == np.uint8
    assert drawing.captions == ("a red circle",) * 3
    assert (bundle.draw(["a red circle"], n=3, seed=1).pictures == drawing.pictures).all()
    assert (bundle.draw("a red circle", n=3, seed=2).tokens != drawing.tokens).any()
    assert (bundle.draw("A RED Circle", n=3, seed=1).tokens == drawing.tokens).all()


def test_pictures_are_the_dvaes_of_the_tokens(saved):
    """What is shown is what the tokens say."""
    bundle = load(saved, "cpu")
    drawing = bundle.draw("a red circle", n=2)
    with torch.no_grad():
        pictures = bundle.dvae.decode(torch.from_numpy(drawing.tokens))
    expected = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert (drawing.pictures == expected).all()


@pytest.mark.parametrize(
    ("captions", "settings", "words"),
    [
        ([], {}, "no caption"),
        ("", {}, "empty"),
        (["a star", "  "], {}, "empty"),
        ("z" * 13, {}, "13 tokens.*12"),
        ("a star", {"n": 0}, "0"),
        ("a star", {"temperature": -1}, "-1"),
        ("a star", {"top_k": 12}, "11.*12"),
        ("a star", {"top_p": 0}, "0"),
    ],
)
def test_wrong_requests_are_errors(saved, captions, settings, words):
    """Before anything is drawn."""
    with pytest.raises(ValueError, match=words):
        load(saved, "cpu").draw(captions, **settings)


# ----------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named(folder, name):
    """A bundle is complete or it is none."""
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(folder)


def test_an_unknown_model_is_an_error_that_names_it(tmp_path):
    """Neither a bundled name nor a folder."""
    with pytest.raises(FileNotFoundError, match="no model.*nothing-like-this"):
        load(tmp_path / "nothing-like-this")


def test_bundled_names_are_listed_if_there_are_none(tmp_path, monkeypatch):
    """A source tree without weights gives the same clear message."""
    monkeypatch.setattr(room, "BUNDLED", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="no model 'tiny'"):
        load("tiny")


@pytest.mark.parametrize("part", ["dvae", "dalle"])
@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights_are_an_error_that_names_the_file(folder, part, size):
    """Empty, cut in the header, cut by one byte."""
    path = folder / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{part}\.safetensors"):
        load(folder)


@pytest.mark.parametrize("part", ["dvae", "dalle"])
def test_a_single_changed_weight_is_noticed(folder, part):
    """The fingerprint covers every value."""
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    name = max(tensors)
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"{part}\.safetensors has fingerprint"):
        load(folder)


@pytest.mark.parametrize("name", ["dvae.safetensors", "dalle.safetensors"])
def test_files_of_two_models_cannot_be_mixed(folder, tmp_path, name):
    """Same shapes, other training."""
    other = tiny_bundle(seed=1).save(tmp_path / "other")
    shutil.copy(other / name, folder / name)
    with pytest.raises(ValueError, match=f"{name} has fingerprint.*another model"):
        load(folder)


def test_the_tokenizer_of_another_model_is_noticed(folder):
    """Other merges, other ids."""
    bundle = tiny_bundle()
    text = type(bundle.tokenizer).train(["other words"] * 9, 280, 12).to_json()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json has fingerprint"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"3"])
def test_files_that_are_no_json_of_ours_are_named(folder, name, content):
    """Not JSON, not text, not an object."""
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        load(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.update(format=2), "format 2 is newer than 1"),
        (lambda c: c.update(format="one"), "config.json"),
        (lambda c: c.pop("format"), "format"),
        (lambda c: c.pop("name"), "name"),
        (lambda c: c.pop("dalle"), "dalle"),
        (lambda c: c["dvae"].update(colour=3), r"unknown field dvae\.colour"),
        (lambda c: c["dalle"].update(K="11"), r"dalle\.K"),
        (lambda c: c["dvae"].update(size="8"), r"dvae\.size"),
        (lambda c: c["dvae"].update(likelihood="cauchy"), "cauchy"),
        (lambda c: c["fingerprints"].pop("dvae"), "dvae"),
        (lambda c: c.pop("fingerprints"), "fingerprints"),
        (lambda c: c["dvae"].update(size=16), "4×4.*2×2"),
        (lambda c: c["dvae"].update(K=12), "dvae.safetensors does not fit"),
        (lambda c: c["dalle"].update(T=13), "dalle.safetensors does not fit"),
        (lambda c: c["dalle"].update(L=3), "dalle.safetensors does not fit"),
    ],
)
def test_a_wrong_config_is_an_error_that_names_the_field(folder, change, words):
    """Newer format, unknown or missing fields, wrong types, sizes that do not fit the weights."""
    edit(folder / "config.json", change)
    with pytest.raises(ValueError, match=words):
        load(folder)


@pytest.mark.parametrize("change", [{"H": 4}, {"kernel": 5}], ids=str)
def test_a_config_that_changes_no_shape_is_noticed(folder, change):
    """Other heads or another window: the weights fit, the pictures would be wrong."""
    edit(folder / "config.json", lambda c: c["dalle"].update(change))
    with pytest.raises(ValueError, match="config.json has fingerprint"):
        load(folder)


@pytest.mark.parametrize("field", ["K", "logit_norm"])
def test_a_field_that_is_missing_is_named(folder, field):
    """A default would silently stand in for what the model was trained with."""
    edit(folder / "config.json", lambda c: c["dvae"].pop(field))
    with pytest.raises(ValueError, match=rf"config\.json.*{field}"):
        load(folder)


def test_tokenizer_and_model_must_agree_on_the_vocabulary(tmp_path):
    """Padding ids are V + p: with another V they would be words."""
    bundle = tiny_bundle()
    bundle.tokenizer = type(bundle.tokenizer).train(["other"], 280, 12)
    folder = bundle.save(tmp_path)
    with pytest.raises(ValueError, match="tokenizer.* 256 .*280"):
        load(folder)


# -------------------------------------------------------------------------------- half-written


@pytest.mark.parametrize("name", ["tokenizer.json", "dvae.safetensors", "dalle.safetensors"])
def test_an_interrupted_save_leaves_no_seal(tmp_path, monkeypatch, name):
    """config.json comes last: without it nothing pretends to be a model."""
    write = room.write_atomically

    def fail(path, content):
        if path.name == name:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    monkeypatch.setattr(room, "write_atomically", fail)
    with pytest.raises(OSError, match="No space"):
        tiny_bundle().save(tmp_path / "model")
    assert not (tmp_path / "model" / "config.json").exists()
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "model")


def test_an_interrupted_save_over_another_model_is_noticed(folder, monkeypatch):
    """Half of the new and half of the old never load as one."""
    write = room.write_atomically

    def fail(path, content):
        if path.name == "dalle.safetensors":
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(room, "write_atomically", fail)
    with pytest.raises(KeyboardInterrupt):
        tiny_bundle(seed=1).save(folder)
    with pytest.raises(ValueError, match="fingerprint"):
        load(folder)


# ----------------------------------------------------------------------------------- fingerprints


def test_fingerprints_depend_on_names_shapes_types_and_values():
    """And not on the order of the names or on how a tensor lies in memory."""
    x = torch.arange(6.0).view(2, 3)
    mark = fingerprint({"a": x, "b": x})
    assert mark == fingerprint({"b": x, "a": x}) == fingerprint({"a": x.t().clone().t(), "b": x})
    others = [{"a": x}, {"a": x, "c": x}, {"a": x.view(3, 2), "b": x}, {"a": x.half(), "b": x}]
    others += [{"a": x + torch.eye(2, 3) * 1e-6, "b": x}, {"a": x.flip(0), "b": x}]
    assert len({mark, *map(fingerprint, others)}) == 7


def test_nothing_is_ever_unpickled():
    """No module of the package imports pickle or calls torch.load or numpy's allow_pickle."""
    for path in Path(minidalle.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found = set()
            if isinstance(node, ast.Import):
                found = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {(node.module or "").split(".")[0], *(a.name for a in node.names)}
            elif isinstance(node, ast.Attribute):
                found = {f"{ast.unparse(node.value)}.{node.attr}"}
            elif isinstance(node, ast.keyword):
                found = {node.arg}
            bad = {"pickle", "cPickle", "dill", "joblib", "torch.load", "allow_pickle"} & found
            assert not bad, f"{path.name}, line {node.lineno}: {bad}"


def test_a_bundle_is_a_plain_record():
    """Its device is where the weights are."""
    bundle = tiny_bundle()
    assert isinstance(bundle, Bundle) and bundle.device.type == "cpu"
    assert bundle.to("cpu") is bundle
