"""A bundle on disk: complete and unchanged, or a clear error that names the file."""

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from builders import learned, tiny_bundle
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import minidalle.bundle_files as room
from minidalle import files
from minidalle.bundle import Bundle, load
from minidalle.bundle_files import CLIP_NAME, FRONT_MATTER, KINDS, NAMES, load_dvae
from minidalle.clip import CLIPConfig, best_of
from minidalle.data import Scope
from minidalle.files import fingerprint, text_fingerprint
from minidalle.presets import preset

ALL = (*NAMES, CLIP_NAME)  # the files of a bundle that can rank
PARTS = tuple(KINDS)  # dvae, dalle, clip


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A bundle on disk, which no test may change."""
    bundle = learned(tiny_bundle(), "attributes", "time", count=("one", "two"))
    return bundle.save(tmp_path_factory.mktemp("bundle") / "new" / "folder")


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
    for name in (*ALL, "README.md"):
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_is_saved_is_the_model_in_16_bit(saved):
    """Everything comes back as it was, weights rounded to half precision and computed with in 32 bit."""
    original, loaded = tiny_bundle(), load(saved, "cpu")
    assert (loaded.name, loaded.card) == (original.name, original.card)
    assert loaded.dvae.config == original.dvae.config
    assert loaded.dalle.config == original.dalle.config
    assert loaded.tokenizer.to_json() == original.tokenizer.to_json()
    assert loaded.clip.config == original.clip.config
    for part in PARTS:
        old, new = getattr(original, part).state_dict(), getattr(loaded, part).state_dict()
        assert old.keys() == new.keys()
        for name, tensor in new.items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, old[name].half().float())
        assert not getattr(loaded, part).training


def test_a_bundle_has_its_files_and_no_others(saved):
    """config.json, tokenizer, two weights and the card; no temporary file is left."""
    assert sorted(path.name for path in saved.iterdir()) == sorted([*ALL, "README.md"])


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


# ---------------------------------------------------------------------------------------- choosing


def test_similarity_is_clips(saved):
    """Every picture against every caption, from bytes and from floats, as the model itself says."""
    bundle = load(saved, "cpu")
    drawn = bundle.draw(["a red circle", "a star"], n=2, seed=1)
    captions = ["a red circle", "a star", "the word cat"]
    floats = torch.from_numpy(drawn.pictures).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        expected = bundle.clip.similarity(floats, bundle.tokenizer.encode(captions))
    assert expected.shape == (4, 3)
    assert torch.allclose(bundle.similarity(drawn.pictures, captions), expected, atol=1e-6)
    assert torch.allclose(bundle.similarity(floats, captions), expected, atol=1e-6)
    one = bundle.similarity(drawn.pictures, "a star")
    assert torch.allclose(one, expected[:, 1:2], atol=1e-6)


def test_the_best_of_many_are_drawn_best_first(saved):
    """The candidates are those of a plain drawing; each caption keeps its own n best, tokens and all."""
    bundle, captions = load(saved, "cpu"), ["a red circle", "the word cat"]
    every = bundle.draw(captions, n=6, seed=2)
    best = bundle.draw(captions, n=2, seed=2, best_of=6)
    scores = torch.stack(
        [bundle.similarity(every.pictures[6 * k :][:6], captions[k])[:, 0] for k in (0, 1)]
    )
    kept = [6 * k + int(i) for k in (0, 1) for i in best_of(scores, 2)[k]]
    assert kept != [0, 1, 6, 7] and best.captions == (captions[0],) * 2 + (captions[1],) * 2
    assert (best.pictures == every.pictures[kept]).all()
    assert (best.tokens == every.tokens[kept]).all()
    assert "best of 6" in best.title
    everything = bundle.draw(captions, n=6, seed=2, best_of=6)
    assert sorted(everything.tokens.tolist()) == sorted(every.tokens.tolist())


def test_what_clip_prefers_is_kept(saved, monkeypatch):
    """A judge who likes red keeps the reddest candidates of every caption."""
    bundle = load(saved, "cpu")

    def redness(pictures, captions):
        return torch.from_numpy(pictures[..., 0].astype(float).mean((1, 2)))[:, None]

    monkeypatch.setattr(bundle, "similarity", redness, raising=False)
    every = bundle.draw(["a star", "a cat"], n=8, seed=5)
    best = bundle.draw(["a star", "a cat"], n=3, seed=5, best_of=8)
    red = redness(every.pictures, "")[:, 0].view(2, 8).sort(1, descending=True).values[:, :3]
    assert redness(best.pictures, "")[:, 0].tolist() == red.flatten().tolist()


@pytest.mark.parametrize(("n", "many"), [(3, 2), (1, 0), (0, 4), (2, -1)])
def test_fewer_candidates_than_pictures_are_an_error(saved, n, many):
    """Both numbers are named."""
    with pytest.raises(ValueError, match=f"best {n} of {many}"):
        load(saved, "cpu").draw("a star", n=n, best_of=many)


def test_a_bundle_without_clip_loads_and_draws(saved, tmp_path):
    """As all did before there was one; only choosing is an error, which names the model."""
    bare = load(saved, "cpu")
    bare.clip = None
    loaded = load(bare.save(tmp_path / "bare"), "cpu")
    assert loaded.clip is None and not (tmp_path / "bare" / CLIP_NAME).exists()
    assert (loaded.draw("a star", 2).tokens == load(saved, "cpu").draw("a star", 2).tokens).all()
    for ask in (
        lambda: loaded.draw("a star", best_of=4),
        lambda: loaded.similarity(np.zeros((1, 8, 8, 3), np.uint8), "a star"),
    ):
        with pytest.raises(ValueError, match="'tiny-test' has no CLIP"):
            ask()


# ----------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", ALL)
def test_a_missing_file_is_named(folder, name):
    """A bundle is complete or it is none."""
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ["tiny", "world"])
def test_bundled_weights_are_of_their_recipe(name):
    """Sizes, steps and pictures are those of the preset of their name, which `make weights` trains."""
    recipe, folder = preset(name), room.BUNDLED / name
    config = json.loads((folder / "config.json").read_text())
    for part, sizes in (("dvae", recipe.dvae), ("dalle", recipe.dalle), ("clip", recipe.clip)):
        learned = (
            {"V": config[part]["V"]} if "V" in config[part] else {}
        )  # may be fewer than asked for
        assert config[part] == {**asdict(sizes), **learned}
    assert load(name, "cpu").world == Scope(recipe.families, recipe.where)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = {line["stage"]: line for line in lines}
    trained = {
        "dVAE": recipe.dvae_training,
        "DALL·E": recipe.dalle_training,
        "CLIP": recipe.clip_training,
    }
    for stage, line in last.items():
        assert stage not in trained or line["step"] == trained[stage].steps
    assert {"dVAE", "DALL·E"} <= set(last)
    assert last["tokens"]["pictures"] == recipe.dalle_training.pictures


def test_an_unknown_model_is_an_error_that_names_it(tmp_path):
    """Neither a bundled name nor a folder."""
    with pytest.raises(FileNotFoundError, match="no model.*nothing-like-this"):
        load(tmp_path / "nothing-like-this")


def test_bundled_names_are_listed_if_there_are_none(tmp_path, monkeypatch):
    """A source tree without weights gives the same clear message."""
    monkeypatch.setattr(room, "BUNDLED", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="no model 'tiny'"):
        load("tiny")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_weights_are_an_error_that_names_the_file(folder, part, size):
    """Empty, cut in the header, cut by one byte."""
    path = folder / f"{part}.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=rf"{part}\.safetensors"):
        load(folder)


@pytest.mark.parametrize("part", PARTS)
def test_a_single_changed_weight_is_noticed(folder, part):
    """The fingerprint covers every value."""
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    name = max(tensors)
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"{part}\.safetensors has fingerprint"):
        load(folder)


@pytest.mark.parametrize("name", [f"{part}.safetensors" for part in PARTS])
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
        (lambda c: c["clip"].update(L=3), "clip.safetensors does not fit"),
        (lambda c: c["clip"].update(T=13), r"field clip\.T is 13, the other parts have 12"),
        (lambda c: c["clip"].update(size=16), r"field clip\.size is 16, the other parts have 8"),
        (lambda c: c["clip"].update(halvings=4), r"field clip: 8 pixels"),
        (lambda c: c["fingerprints"].pop("clip"), r"fingerprints\.clip"),
        (lambda c: c.pop("clip"), "config.json has fingerprint"),
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


# --------------------------------------------------------------- damage anywhere, and what it claims


def reseal(folder: Path) -> None:
    """Let config.json's fingerprints fit the files again, as somebody would who edits a model on purpose."""

    def renew(config):
        sizes = {part: config[part] for part in KINDS if part in config}
        marks = config["fingerprints"]
        marks["config"] = text_fingerprint(json.dumps(sizes))
        marks["tokenizer"] = text_fingerprint((folder / "tokenizer.json").read_text())
        for part in KINDS:
            marks[part] = fingerprint(load_file(folder / f"{part}.safetensors"))

    edit(folder / "config.json", renew)


def same_as(one: Bundle, two: Bundle) -> bool:
    """Whether two bundles are equal in everything that a picture depends on."""
    states = [
        {(part, name): t for part, m in b.models().items() for name, t in m.state_dict().items()}
        for b in (one, two)
    ]
    return (
        one.world == two.world
        and [m.config for m in one.models().values()] == [m.config for m in two.models().values()]
        and one.tokenizer.to_json() == two.tokenizer.to_json()
        and states[0].keys() == states[1].keys()
        and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    )


FILES = (*ALL, "README.md")


@given(data=st.data())
def test_damage_to_any_file_is_named_or_does_no_harm(saved, tmp_path_factory, data):
    """Bytes flipped, cut, inserted, a file emptied or replaced by another: an error that names the file,
    or a bundle that is equal in everything but its name and card."""
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("damaged") / "model")
    name = data.draw(st.sampled_from(FILES))
    content = bytearray((folder / name).read_bytes())
    place = data.draw(
        st.integers(0, min(len(content) - 1, 3000)) | st.integers(0, len(content) - 1)
    )
    match data.draw(st.sampled_from(["flip", "cut", "insert", "truncate", "swap"])):
        case "flip":
            content[place] ^= data.draw(st.integers(1, 255))
        case "cut":
            del content[place : place + data.draw(st.integers(1, 9))]
        case "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=9))
        case "truncate":
            del content[place:]
        case "swap":
            content = (folder / data.draw(st.sampled_from(FILES))).read_bytes()
    (folder / name).write_bytes(content)
    try:
        loaded = load(folder, "cpu")
    except ValueError as error:
        # A damaged fingerprint in config.json shows as a file that does not have it: both are named.
        assert name in str(error)
    else:
        assert same_as(loaded, load(saved, "cpu"))


@pytest.mark.parametrize("name", FILES)
def test_bytes_that_are_no_text_are_named(folder, name):
    """Where text is expected, and where it is not."""
    (folder / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=name):
        load(folder)


@pytest.mark.parametrize("name", ALL)
def test_a_folder_in_place_of_a_file_is_a_missing_file(folder, name):
    """It is there, but it is no file."""
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        load(folder)


def fields(content: dict, prefix: tuple = ()) -> list[tuple]:
    """The path of every field of a JSON object."""
    found = []
    for name, value in content.items():
        found += [(*prefix, name), *(fields(value, (*prefix, name)) if type(value) is dict else [])]
    return found


OTHER_VALUES = [
    None,
    "x",
    True,
    False,
    1.5,
    -1,
    0,
    3,
    2**20,
    10**9,
    10**30,
    [],
    {},
    [[1]],
    "é" * 999,
]
CONFIG = fields(json.loads((room.BUNDLED / "tiny" / "config.json").read_text()))
CONFIG += fields({"clip": asdict(CLIPConfig()), "fingerprints": {"clip": ""}})
CONFIG += fields({"world": {"families": [], "where": {"count": []}}})
CONFIG = list(dict.fromkeys(CONFIG))  # the bundled model may have one, too


@pytest.mark.parametrize("sealed", [True, False], ids=["as edited", "with new fingerprints"])
@pytest.mark.parametrize("path", CONFIG, ids=".".join)
def test_every_other_value_of_every_field_is_named_or_does_no_harm(saved, folder, path, sealed):
    """Removed, of every other kind, absurdly large: a ValueError that names file and field. With
    fingerprints made new for it, what fits the weights may load; nothing fills the memory or hangs."""
    whole = json.loads((saved / "config.json").read_text())
    for value in ["removed", *OTHER_VALUES]:
        config = json.loads(json.dumps(whole))
        inner = config
        for name in path[:-1]:
            inner = inner[name]
        if inner[path[-1]] == value and type(inner[path[-1]]) is type(value):
            continue
        inner.pop(path[-1]) if value == "removed" else inner.update({path[-1]: value})
        (folder / "config.json").write_text(json.dumps(config))
        if not sealed and path[0] in KINDS and path[0] in config:
            reseal(folder)
        try:
            loaded = load(folder, "cpu")
        except ValueError as error:
            message = str(error)
            assert re.search(r"config\.json|\.safetensors|tokenizer\.json", message)
            named = (path[-1], f"field {path[0]}", "fingerprint", "does not fit config.json")
            assert any(words in message for words in named), message
            assert len(message) < 900
        else:
            harmless = path == ("name",) or path[0] == "world"
            assert harmless or not sealed or same_as(loaded, load(saved, "cpu"))


def test_the_part_of_the_world_is_kept(saved, folder):
    """Families and allowed values come back; a model of other pictures has none, and one of a world that
    is not known here still draws."""
    assert load(saved, "cpu").world == Scope(("attributes", "time"), {"count": ("one", "two")})
    edit(folder / "config.json", lambda c: c["world"].update(families=["dots"]))
    assert load(folder, "cpu").world.families == ("dots",)
    edit(folder / "config.json", lambda c: c.pop("world"))
    assert load(folder, "cpu").world is None


def test_harmless_changes_load(folder):
    """The name, the card and fields that nobody reads: the pictures are the same."""
    before = load(folder, "cpu").draw("a star", seed=1)
    edit(folder / "config.json", lambda c: c.update(name="other", comment="mine"))
    (folder / "README.md").write_text("# another card")
    after = load(folder, "cpu")
    assert (after.name, after.card) == ("other", "# another card")
    assert (after.draw("a star", seed=1).pictures == before.pictures).all()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "dtype", ["int64", "int32", "uint8", "bool", "float64", "bfloat16", "float8_e4m3fn"]
)
def test_tensors_of_other_types_are_named(folder, part, dtype):
    """One tensor, with the fingerprint made new for it."""
    path = folder / f"{part}.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = tensors[name].to(getattr(torch, dtype))
    save_file(tensors, path)
    reseal(folder)
    with pytest.raises(ValueError, match=rf"{part}\.safetensors: {name} is no tensor of finite"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(folder, value):
    """In a file; and such weights, or larger ones than 16 bit can hold, are not saved."""
    path = folder / "dalle.safetensors"
    tensors = load_file(path)
    tensors["start"][0, 0] = value
    save_file(tensors, path)
    reseal(folder)
    with pytest.raises(ValueError, match=r"dalle\.safetensors: start is no tensor of finite"):
        load(folder)
    bundle = tiny_bundle()
    for weight in (value, 1e6):
        bundle.dvae.encoder.layers[1].bias.data[0] = weight
        with pytest.raises(ValueError, match=r"dvae: a weight of encoder\.layers\.1\.bias"):
            bundle.save(folder.parent / "new")


def header(content: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, and the bytes behind it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(fields: dict | bytes, data: bytes) -> bytes:
    """A safetensors file of these parts."""
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


HEADERS = {
    "another shape": lambda h: h["start"].update(shape=[h["start"]["shape"][1], 2]),
    "larger shape": lambda h: h["start"].update(shape=[2**40, 2**40]),
    "negative shape": lambda h: h["start"].update(shape=[-2, -16]),
    "another type": lambda h: h["start"].update(dtype="I16"),
    "a wider type": lambda h: h["start"].update(dtype="F64"),
    "an unknown type": lambda h: h["start"].update(dtype="PICKLE"),
    "outside": lambda h: h["start"].update(data_offsets=[0, 2**40]),
    "backwards": lambda h: h["start"].update(data_offsets=[64, 0]),
    "overlapping": lambda h: h["start"].update(data_offsets=h["text_head.bias"]["data_offsets"]),
    "without offsets": lambda h: h["start"].pop("data_offsets"),
    "without a tensor": lambda h: h.pop("start"),
    "another name": lambda h: h.update({"\u202eevil": h.pop("start")}),
    "no object": lambda h: h.update(start=3),
    "metadata": lambda h: h.update(__metadata__={"a": 1}),
}


@pytest.mark.parametrize("claim", HEADERS)
def test_a_header_that_claims_something_else_is_named(folder, claim):
    """Types, shapes, places and names, with the fingerprint made new where the library reads the file."""
    path = folder / "dalle.safetensors"
    fields, data = header(path.read_bytes())
    HEADERS[claim](fields)
    path.write_bytes(with_header(fields, data))
    with pytest.raises(ValueError, match=r"dalle\.safetensors"):
        load(folder)
    try:
        reseal(folder)
    except Exception:
        return  # the library refuses it
    with pytest.raises(ValueError, match=r"dalle\.safetensors"):
        load(folder)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"{}", b"", b'{"a": ' * 10_000], ids=["nested", "{}", "", "deep"]
)
def test_headers_that_are_absurd_are_named(folder, text):
    """Nested for ever, empty; or longer than the file."""
    path = folder / "dvae.safetensors"
    for content in (with_header(text, b""), (2**62).to_bytes(8, "little") + text):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"dvae\.safetensors"):
            load(folder)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "1" * 5000, '{"format": ' + "1" * 5000 + "}", '{"format": 1e999}']
)
def test_json_that_is_absurd_is_named(folder, text):
    """Nested for ever, numbers of thousands of digits."""
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize("number", [0, -1, 2, 10**9, 10**40])
def test_other_formats_are_refused(folder, number):
    """Newer and impossible ones."""
    edit(folder / "config.json", lambda c: c.update(format=number))
    with pytest.raises(ValueError, match=r"config\.json: format .*update minidalle"):
        load(folder)


def test_the_dvae_of_another_model_is_noticed_alone_too(folder, tmp_path):
    """`load_dvae` compares the same fingerprints."""
    other = tiny_bundle(seed=1).save(tmp_path / "other")
    assert load_dvae(folder, "cpu").config == load(folder, "cpu").dvae.config
    shutil.copy(other / "dvae.safetensors", folder / "dvae.safetensors")
    with pytest.raises(ValueError, match=r"dvae\.safetensors has fingerprint"):
        load_dvae(folder, "cpu")


# ----------------------------------------------------------------------------------------- the card


def test_the_card_has_front_matter_for_the_hub(saved):
    """Licence, tags, library and task, readable as YAML; the bundled model's too."""
    for folder in (saved, room.BUNDLED / "tiny"):
        _, front, body = (folder / "README.md").read_text().split("---\n", 2)
        front = yaml.safe_load(front)
        assert front["license"] == "cc-by-4.0" and front["pipeline_tag"] == "text-to-image"
        assert front["library_name"] == "minidalle" and "dall-e" in front["tags"]
        assert body.startswith("\n# ")


@pytest.mark.parametrize(
    "card", ["", "# a card\n", "---\nlicense: mit\n---\n# mine", FRONT_MATTER + "# a"]
)
def test_a_card_comes_back_as_it_was(tmp_path, card):
    """Also with front matter of its own, which is kept."""
    bundle = tiny_bundle()
    bundle.card = card
    loaded = load(bundle.save(tmp_path / "one"), "cpu")
    again = load(loaded.save(tmp_path / "two"), "cpu")
    assert loaded.card == again.card == card.removeprefix(FRONT_MATTER)
    text = [(tmp_path / name / "README.md").read_bytes() for name in ("one", "two")]
    assert text[0] == text[1] and text[0].startswith(b"---\n")


# -------------------------------------------------------------------------------- half-written


@pytest.mark.parametrize("name", ["tokenizer.json", *(f"{part}.safetensors" for part in PARTS)])
def test_an_interrupted_save_leaves_no_seal(tmp_path, monkeypatch, name):
    """config.json comes last: without it nothing pretends to be a model."""
    write = room.write_atomically

    def fail(path, content):
        if path.name == name:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    for module in (room, files):  # tensors and JSON are written there, the rest here
        monkeypatch.setattr(module, "write_atomically", fail)
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

    for module in (room, files):  # tensors and JSON are written there, the rest here
        monkeypatch.setattr(module, "write_atomically", fail)
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


def test_a_bundle_is_a_plain_record():
    """Its device is where the weights are."""
    bundle = tiny_bundle()
    assert isinstance(bundle, Bundle) and bundle.device.type == "cpu"
    assert bundle.to("cpu") is bundle
