"""The world: pure functions, disjoint splits, captions that say everything, pictures that show it."""

import hashlib
import math
import os
import random
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import minidalle
from minidalle.data import World, batches, to_float, to_uint8
from minidalle.presets import PRESETS
from minidalle.stages import train_tokenizer
from minidalle.world import FAMILIES, SIZES, SPLITS, Scene, family
from minidalle.world.canvas import HELD_OUT_PAIRS, PALETTE, SHAPES, outline
from minidalle.world.lettering import STROKES, WORDS

NAMES = sorted(FAMILIES)
names, splits, sizes = st.sampled_from(NAMES), st.sampled_from(SPLITS), st.sampled_from(SIZES)
indices, seeds = st.integers(0, 10**6), st.integers(0, 10**6)


@cache
def scenes(name: str, split: str, n: int = 1500) -> list[Scene]:
    """The first scenes of a family in a split."""
    return [FAMILIES[name].example(i, split)[0] for i in range(n)]


@cache
def sampled(name: str) -> dict[tuple, list[Scene]]:
    """30,000 scenes of all splits: for every assignment of the slots that occurs, its scenes."""
    rng, found = random.Random(0), defaultdict(list)
    for _ in range(30_000):
        scene = FAMILIES[name].sample(rng)
        found[tuple(scene.slots.items())].append(scene)
    return found


def all_slots(name: str) -> list[Scene]:
    """One scene for every assignment of the slots of the small families; many samples of the large."""
    every = [found[0] for found in sampled(name).values()]
    return every[:4000] if name == "objects" else every


# ------------------------------------------------------------------------------------ pure functions


@given(names, indices, splits, seeds, sizes)
def test_examples_are_pure_functions_of_their_arguments(name, index, split, seed, size):
    """Asked twice, with other randomness in between: the same scene, caption and bytes."""
    one = FAMILIES[name].example(index, split, seed)
    random.seed(index)
    np.random.seed(seed)
    two = FAMILIES[name].example(index, split, seed)
    assert one == two
    assert (FAMILIES[name].draw(one[0], size) == FAMILIES[name].draw(two[0], size)).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_in_a_scenes_slots_does_not_matter(name):
    """Same facts, same digest, same split, same picture."""
    for scene in scenes(name, "train")[:20]:
        turned = Scene(scene.family, dict(reversed(scene.slots.items())), scene.layout)
        assert turned.digest() == scene.digest()
        assert FAMILIES[name].split_of(turned) == "train"
        assert (FAMILIES[name].draw(turned, 24) == FAMILIES[name].draw(scene, 24)).all()


@pytest.mark.parametrize("name", NAMES)
def test_index_and_seed_both_count(name):
    """Other indices and other seeds give other scenes."""
    first = [FAMILIES[name].example(i)[0].digest() for i in range(50)]
    other = [FAMILIES[name].example(i, seed=1)[0].digest() for i in range(50)]
    assert len(set(first)) > 45 and len(set(first) & set(other)) < 5


GOLDEN = {
    ("attributes", 0, 24): "534620ae5d267613",
    ("attributes", 1, 32): "e357f0e36fa59c4e",
    ("attributes", 2, 64): "f330e18be32d1506",
    ("attributes", 3, 128): "87a1f0a9fd7e82e3",
    ("lettering", 0, 24): "4dd3c57333cb6bac",
    ("lettering", 1, 32): "54cb38b77107ddab",
    ("lettering", 2, 64): "90fc577a4bb3f723",
    ("lettering", 3, 128): "323405f7ace196f7",
    ("objects", 0, 24): "0eb1057f7e598276",
    ("objects", 1, 32): "29c59a19000b7aeb",
    ("objects", 2, 64): "64eb74281d918ee1",
    ("objects", 3, 128): "e2da3f2e98fa3678",
    ("context", 0, 24): "97b3f8151d356060",
    ("context", 1, 32): "a86856d4bab894cb",
    ("context", 2, 64): "5cfaf933dc3d739f",
    ("context", 3, 128): "7e13c27bfc469df3",
    ("creatures", 0, 24): "38dd3bf5fb77d205",
    ("creatures", 1, 32): "e9cb2ee5aeefd6db",
    ("creatures", 2, 64): "22622699b6e03390",
    ("creatures", 3, 128): "1b431cf0e74d2225",
    ("time", 0, 24): "5b231c9e8ccb00b1",
    ("time", 1, 32): "7cc68f281d4be157",
    ("time", 2, 64): "a3201853c2bce2bc",
    ("time", 3, 128): "a68faf610b91ee4e",
    ("translation", 0, 24): "994a89e03e293acf",
    ("translation", 1, 32): "2c98993b78add7a0",
    ("translation", 2, 64): "30cd2f11e5170c1d",
    ("translation", 3, 128): "4303594bcf2a78a1",
}


@pytest.mark.parametrize(("name", "index", "size"), GOLDEN)
def test_pictures_are_the_same_on_every_machine(name, index, size):
    """The bytes of a few scenes, captions and pictures, recorded once."""
    scene, caption = FAMILIES[name].example(index)
    picture = FAMILIES[name].draw(scene, size)
    digest = hashlib.sha256(scene.digest() + caption.encode() + picture.tobytes()).hexdigest()
    assert digest[:16] == GOLDEN[name, index, size]


# For every family that the bundled weights or the book's pictures rest on: 20 examples of each split.
LOCKED = {
    "attributes": ("03b3f188d418aa53", "fe21384ad83c6db0", "067dc89629ced2d5", "365b685020a4ff12"),
    "combination": ("955a1a18354b8b93", "a08f1351b353ad24", "e008577ef2a00039", "a54f33d6220fa6e5"),
    "geography": ("d53fcb5a37d37afc", "653588f7f5957d05", "6c0409fa3df414ee", "9c6fa2cec6f7ffa9"),
    "lettering": ("7aed52bf15e27f3d", "bc2647ab7fc7f7a0", "5c62fe3680e6ef61", "3b3500695d136902"),
    "objects": ("317faba433d04ee4", "257adfcdc2996d2a", "8b01aa7db549e376", "9778d82c98409652"),
    "perspective": ("3440417e2aea4a07", "54db39ecde188802", "fa79c118f9607a24", "515cac968f345872"),
    "structure": ("79c1579ee0095b01", "c913082d609bc8b5", "c7d5fb3522d18add", "d024614877fafa6a"),
}


def many_examples(name: str, size: int) -> str:
    """A hash over scenes, captions and pictures of 20 examples of each split."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for i in range(20):
            scene, caption = FAMILIES[name].example(i, split, seed=1)
            digest.update(scene.digest() + caption.encode())
            digest.update(FAMILIES[name].draw(scene, size).tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", LOCKED)
def test_what_a_family_draws_does_not_change(name):
    """Weights were trained on these pictures: a changed stroke is a changed world."""
    assert tuple(many_examples(name, size) for size in SIZES) == LOCKED[name]


# -------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint(name):
    """1,500 scenes of each split: no scene is in two of them, and split_of says where it belongs."""
    digests = {split: {s.digest() for s in scenes(name, split)} for split in SPLITS}
    assert not digests["train"] & digests["test"]
    assert not digests["train"] & digests["zero-shot"]
    assert not digests["test"] & digests["zero-shot"]
    for split in SPLITS:
        assert len(digests[split]) > 300
        assert all(FAMILIES[name].split_of(scene) == split for scene in scenes(name, split))


def held_out_in(scene: Scene) -> int:
    """How many held-out compositions a scene shows, counted here without the family's own rule."""
    s, listed = scene.slots, FAMILIES[scene.family].held_out
    if scene.family == "attributes":
        pairs = [(s["colour"], s["shape"])]
    elif scene.family == "lettering":
        pairs = [(s["letter 1"] + s["letter 2"] + s["letter 3"], s["board"])]
    elif scene.family != "objects":
        return sum(set(composition) <= set(s.values()) for composition in listed)
    elif s["arrangement"] == "stack":
        pairs = [(s["top"], s["middle"]), (s["middle"], s["bottom"])]
    else:
        pairs = [(s["colour 1"], s["shape 1"]), (s["colour 2"], s["shape 2"])]
    return sum(pair in listed for pair in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_compositions_are_held_out(name):
    """None in train and test, at least one in every zero-shot scene."""
    for split in ("train", "test"):
        assert not any(held_out_in(scene) for scene in scenes(name, split))
    assert all(held_out_in(scene) for scene in scenes(name, "zero-shot"))


@pytest.mark.parametrize("name", NAMES)
def test_splits_are_disjoint_by_enumeration(name):
    """Every assignment of the slots × its sampled layouts, not a draw from the splits: a composition
    that is held out is so in all of its scenes, and all scenes with one are zero-shot."""
    splits_of = defaultdict(set)
    for slots, found in sampled(name).items():
        held = bool(held_out_in(found[0]))
        for scene in found:
            split = FAMILIES[name].split_of(scene)
            assert (split == "zero-shot") == held, scene
            splits_of[split].add(slots)
    assert splits_of["zero-shot"] and not splits_of["zero-shot"] & splits_of["train"]
    # Test scenes are new layouts of what training shows, as far as 30,000 samples can tell.
    assert len(splits_of["test"] & splits_of["train"]) > len(splits_of["test"]) / 4


@pytest.mark.parametrize("name", NAMES)
def test_a_listed_composition_can_occur(name):
    """No entry of ``held_out`` is a typing error: each is in some sampled scene, and no two are equal."""
    listed = FAMILIES[name].held_out
    assert len(set(listed)) == len(listed) > 0
    met = {held for scene in all_slots(name) for held in listed if contains(scene, held)}
    assert met == set(listed)


def contains(scene: Scene, composition: tuple[str, ...]) -> bool:
    """Whether all values are somewhere in the scene's slots (a word's letters count as a value)."""
    values = set(scene.slots.values()) | {"".join(list(scene.slots.values())[:3])}
    return set(composition) <= values


@pytest.mark.parametrize("name", NAMES)
def test_a_modest_share_of_the_world_is_held_out(name):
    """Enough to ask about, not so much that training misses what it is made of."""
    found = [scene for every in sampled(name).values() for scene in every[:1]]
    share = sum(map(bool, map(held_out_in, found))) / len(found)
    assert 0.05 < share < 0.4, share


def test_no_training_picture_is_a_picture_of_another_split():
    """Byte for byte at 64 pixels, over all families together."""
    drawn = {split: set() for split in SPLITS}
    for split in SPLITS:
        for name in NAMES:
            pictures = [FAMILIES[name].draw(scene, 64) for scene in scenes(name, split)[:150]]
            drawn[split] |= {picture.tobytes() for picture in pictures}
    assert not drawn["train"] & (drawn["test"] | drawn["zero-shot"])


@pytest.mark.parametrize("name", NAMES)
def test_a_family_has_thousands_of_scenes(name):
    """The same caption has many pictures."""
    found = {scene.digest() for every in sampled(name).values() for scene in every}
    assert len(found) > 3000


def test_colours_and_shapes_are_held_out_alike_in_all_families():
    """What one family keeps back, no other gives away; each colour and shape is still seen."""
    assert set(FAMILIES["attributes"].held_out) == set(HELD_OUT_PAIRS)
    assert set(HELD_OUT_PAIRS) <= set(FAMILIES["objects"].held_out)
    assert {colour for colour, _ in HELD_OUT_PAIRS} == set(PALETTE)
    assert {shape for _, shape in HELD_OUT_PAIRS} == set(SHAPES)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "objects"])
def test_no_family_gives_away_a_held_out_pair(name):
    """No training scene names a colour and a shape of the world's list (objects: its own test)."""
    for scene in scenes(name, "train"):
        assert not any(set(pair) <= set(scene.slots.values()) for pair in HELD_OUT_PAIRS), scene


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_slot_occurs_in_training(name):
    """Held out are compositions, never single values."""
    for slot, values in FAMILIES[name].slots.items():
        seen = {scene.slots[slot] for scene in scenes(name, "train") if slot in scene.slots}
        assert seen == set(values), slot


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_every_slot_occurs_in_the_other_splits(name):
    """Scores are about the whole world."""
    for split in ("test", "zero-shot"):
        for slot, values in FAMILIES[name].slots.items():
            seen = {s.slots[slot] for s in scenes(name, split) if slot in s.slots}
            assert seen == set(values), (split, slot)


def test_about_one_scene_in_sixteen_is_a_test_scene():
    """Of those that are not held out."""
    rng = random.Random(0)
    found = [
        FAMILIES["attributes"].split_of(FAMILIES["attributes"].sample(rng)) for _ in range(8000)
    ]
    share = found.count("test") / (found.count("test") + found.count("train"))
    assert share == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_another_layout_is_another_picture(preset):
    """One step of any layout number changes the picture at the sizes that are trained on: otherwise
    a test picture could equal a training picture though their scenes differ. At 32 pixels a few do."""
    same = []
    for name in preset.families:
        for i in range(25):
            where = FAMILIES[name].own(preset.where)
            scene = FAMILIES[name].example(i, "test", where=where)[0]
            picture = FAMILIES[name].draw(scene, preset.dvae.size)
            for k, number in enumerate(scene.layout):
                layout = list(scene.layout)
                layout[k] = number - 1 if number > 0 else number + 1
                moved = Scene(name, scene.slots, tuple(layout))
                same.append((FAMILIES[name].draw(moved, preset.dvae.size) == picture).all())
    assert sum(same) <= (0.02 if preset.dvae.size == 32 else 0) * len(same)


def test_allowed_values_matter_to_the_families_that_have_the_slot():
    """ "plain" is said of attributes alone; objects have no pattern. A slot that none has is an error."""
    where = {"pattern": ("plain",), "arrangement": ("vertical",)}
    source = World(["attributes", "objects"], 32, where=where)
    for scene in (source.scene(i)[0] for i in range(40)):
        named = {"attributes": "pattern", "objects": "arrangement"}[scene.family]
        assert scene.slots[named] in where[named]
    with pytest.raises(
        ValueError, match="no family here has a slot 'patern'.*arrangement.*pattern"
    ):
        World(["attributes", "objects"], 32, where={"patern": ("plain",)})


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("name", NAMES)
def test_each_step_of_a_layout_shows_at_large_sizes(name, size):
    """In every family, whether a preset trains on it or not."""
    for scene in scenes(name, "test")[:25]:
        picture = FAMILIES[name].draw(scene, size)
        for k, number in enumerate(scene.layout):
            layout = list(scene.layout)
            layout[k] = number - 1 if number > 0 else number + 1
            moved = Scene(name, scene.slots, tuple(layout))
            assert (FAMILIES[name].draw(moved, size) != picture).any(), (scene, k)


# ------------------------------------------------------------------------------------------ captions


@pytest.mark.parametrize("name", NAMES)
def test_captions_vary_and_are_clean(name):
    """At least two different phrasings a scene; lower case, single spaces, an article that fits."""
    for scene in scenes(name, "train")[:300]:
        captions = FAMILIES[name].captions(scene)
        assert len(set(captions)) == len(captions) >= 2
        for caption in captions:
            assert caption == caption.lower().strip() and "  " not in caption
            assert not re.search(r"\ba (?!uni)[aeiou]", caption), caption
            assert not re.search(r"\ban [^aeiou]", caption), caption


@pytest.mark.parametrize("name", NAMES)
def test_an_examples_caption_is_one_of_its_scenes(name):
    """And all phrasings occur."""
    drawn = defaultdict(set)
    for i in range(300):
        scene, caption = FAMILIES[name].example(i)
        captions = FAMILIES[name].captions(scene)
        assert caption in captions
        drawn["first" if caption == captions[0] else "other"].add(i)
    assert drawn["first"] and drawn["other"]


def test_a_caption_says_all_the_facts():
    """No two scenes with different slots, of any family, share a caption."""
    owner: dict[str, tuple] = {}
    for name in NAMES:
        for scene in all_slots(name):
            facts = (name, *sorted(scene.slots.items()))
            for caption in FAMILIES[name].captions(scene):
                assert owner.setdefault(caption, facts) == facts, caption


ELEVEN = {
    "attributes", "combination", "context", "creatures", "geography", "lettering", "objects",
    "perspective", "structure", "time", "translation",
}  # fmt: skip


def test_the_world_has_many_words():
    """At least 300 different ones over the eleven families; no family lives on a handful."""
    spoken = {
        name: {
            word
            for scene in all_slots(name)
            for caption in FAMILIES[name].captions(scene)
            for word in re.findall(r"[\w'-]+", caption)
        }
        for name in NAMES
    }
    assert all(len(words) >= 20 for words in spoken.values())
    if set(NAMES) >= ELEVEN:
        assert len(set.union(*spoken.values())) >= 300


@pytest.mark.parametrize("name", ["combination", "geography", "perspective", "structure"])
def test_every_combination_of_values_is_a_scene(name):
    """In families whose slots are free of each other, sampling finds the whole product."""
    assert len(sampled(name)) == math.prod(map(len, FAMILIES[name].slots.values()))


def test_the_small_families_are_enumerated_completely():
    """So that the test above leaves nothing out of them."""
    attributes = FAMILIES["attributes"].slots
    pattern_and_size = 1 * 2 * 3 + 3 * (2 + 2)  # one thing: any; several: patterned only if large
    expected = pattern_and_size * len(attributes["colour"]) * len(attributes["shape"])
    assert len(all_slots("attributes")) == expected
    assert len(all_slots("lettering")) == len(WORDS) * len(FAMILIES["lettering"].slots["board"])


def test_above_and_below_are_two_captions_of_one_scene():
    """The upper thing is thing 1, whichever is named first."""
    slots = dict(zip(["size 1", "colour 1", "shape 1"], ["medium", "orange", "heart"], strict=True))
    slots |= {"size 2": "small", "colour 2": "blue", "shape 2": "ring", "arrangement": "vertical"}
    captions = FAMILIES["objects"].captions(Scene("objects", slots, (0, 0, 0, 0, 0)))
    assert captions[0] == "an orange heart above a small blue ring"
    assert "a little blue ring under an orange heart" in captions


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_caption_fits_the_presets_positions(preset):
    """With the tokenizer that training makes, all phrasings of all splits have at most T tokens."""
    source = World(preset.families, preset.dvae.size, where=preset.where)
    tokenizer = train_tokenizer(source, preset.dalle.V, preset.dalle.T)
    for name in preset.families:
        every = FAMILIES[name]
        allowed = [
            caption
            for scene in all_slots(name)
            if all(
                scene.slots.get(slot) in values for slot, values in every.own(preset.where).items()
            )
            for caption in every.captions(scene)
        ]
        assert allowed
        tokenizer.encode(allowed)  # raises ValueError for one that is too long


# ------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_uint8_squares(name, size):
    """(S, S, 3), with something on them."""
    for scene in scenes(name, "train")[:5] + scenes(name, "zero-shot")[:5]:
        picture = FAMILIES[name].draw(scene, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1


def test_attributes_stay_inside_the_frame():
    """No corner of a thing lies outside of the picture (a thousandth is a fraction of a pixel)."""

    class Spy:
        def __init__(self, *args):
            pass

        def shape(self, shape, x, y, r, *rest):
            for point in outline(shape, x, y, r):
                assert all(-0.001 <= u <= 1.001 for u in point), (shape, x, y, r)

        def picture(self):
            pass

    import minidalle.world.attributes as room

    canvas, room.Canvas = room.Canvas, Spy
    try:
        for scene in scenes("attributes", "train"):
            FAMILIES["attributes"].draw(scene, 64)
    finally:
        room.Canvas = canvas


def test_the_border_shows_background():
    """At 64 pixels at most the tip of a thing touches the outermost ring of pixels."""
    for scene in scenes("attributes", "train")[:200]:
        picture = FAMILIES["attributes"].draw(scene, 64).astype(int)
        ring = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
        background = np.median(ring, axis=0)
        assert (np.abs(ring - background).max(1) > 8).mean() < 0.02, scene


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_every_stated_fact_can_be_seen(name, size):
    """Change one slot and the picture changes, everything else being equal."""
    pool = all_slots(name)
    known = {tuple(sorted(scene.slots.items())) for scene in pool}
    drawable = {"letter 1": STROKES, "letter 2": STROKES, "letter 3": STROKES}
    compared = 0
    for scene in pool[:: max(1, len(pool) // 25)]:
        picture = FAMILIES[name].draw(scene, size)
        layout = (*scene.layout, *[0] * 8)[:9]  # nudges for as many things as the count may ask for
        for slot, value in scene.slots.items():
            for other in FAMILIES[name].slots[slot]:
                slots = {**scene.slots, slot: other}
                is_scene = name == "objects" or tuple(sorted(slots.items())) in known
                if other == value or slot == "arrangement" and "stack" in (value, other):
                    continue
                if not is_scene and other not in drawable.get(slot, ()):
                    continue
                changed = layout if slot == "count" else scene.layout
                drawn = FAMILIES[name].draw(Scene(name, slots, changed), size)
                assert (drawn != picture).any(), (scene, slot, other)
                compared += 1
    assert compared > 100


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in NAMES if FAMILIES[name].flaws])
def test_a_flaw_can_be_seen(name, size):
    """Every flaw of a family changes a part of most pictures that can have it, and the rest not at all."""
    family = FAMILIES[name]
    for flaw in family.flaws:
        shares = []
        for scene in scenes(name, "train")[:80]:
            wrong = family.flawed(scene, flaw, size, random.Random(1))
            if wrong is None:
                continue
            assert (wrong == family.flawed(scene, flaw, size, random.Random(1))).all(), "impure"
            picture = family.draw(scene, size).astype(int)
            shares.append(float((abs(picture - wrong).max(2) > 16).mean()))
        assert len(shares) > 10, flaw
        assert np.median(shares) > 0.005 and max(shares) < 0.5, (flaw, np.median(shares))


def test_what_can_be_flawed_in_attributes():
    """A single thing cannot be missing; of two, neither is unlike the rest."""
    family = FAMILIES["attributes"]
    for scene in scenes("attributes", "train")[:200]:
        possible = {
            flaw
            for flaw in family.flaws
            if family.flawed(scene, flaw, 24, random.Random(0)) is not None
        }
        several = {"one": 0, "two": 1}.get(scene.slots["count"], 3)
        assert len(possible) == several, scene
    with_hour = [scene for scene in scenes("time", "train")[:60] if "hour" in scene.slots]
    assert with_hour and len(with_hour) < 60
    for scene in scenes("time", "train")[:60]:
        wrong = FAMILIES["time"].flawed(scene, "no hour hand", 24, random.Random(0))
        assert (wrong is None) == ("hour" not in scene.slots)
    assert FAMILIES["objects"].flawed(scene, "anything", 24, random.Random(0)) is None


def test_the_upper_thing_is_drawn_above():
    """Slot 1 is the upper or the left thing: its colour's centre of mass says so."""
    for scene in scenes("objects", "train")[:150]:
        s = scene.slots
        if s["arrangement"] == "stack" or s["colour 1"] == s["colour 2"]:
            continue
        picture = FAMILIES["objects"].draw(scene, 64)
        centres = []
        for k in (1, 2):
            at = np.argwhere((picture == PALETTE[s[f"colour {k}"]]).all(-1))
            centres.append(at.mean(0)[0 if s["arrangement"] == "vertical" else 1])
        assert centres[0] + 5 < centres[1], scene


def test_stacks_stand_in_their_order():
    """Top over middle over bottom, by the rows in which each colour is found."""
    for scene in scenes("objects", "train")[:150]:
        s = scene.slots
        if s["arrangement"] == "stack":
            picture = FAMILIES["objects"].draw(scene, 64)
            rows = [
                np.argwhere((picture == PALETTE[s[slot]]).all(-1)).mean(0)[0]
                for slot in ("top", "middle", "bottom")
            ]
            assert rows == sorted(rows), scene


def test_as_many_things_are_drawn_as_the_caption_says():
    """Connected areas that are not background, counted by flood fill."""
    for scene in scenes("attributes", "train")[:60]:
        picture = FAMILIES["attributes"].draw(scene, 64).astype(int)
        thing = np.abs(picture - picture[0, 0]).max(-1) > 60
        if scene.slots["pattern"] == "plain":
            expected = ("one", "two", "three", "four").index(scene.slots["count"]) + 1
            assert areas(thing) == expected, scene


def areas(mask: np.ndarray) -> int:
    """How many connected areas (side by side or corner to corner) a mask has."""
    left, count = set(map(tuple, np.argwhere(mask))), 0
    while left:
        count += 1
        edge = [left.pop()]
        while edge:
            y, x = edge.pop()
            near = {(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= near
            edge += near
    return count


# ----------------------------------------------------------------------------------------- the door


def test_where_restricts_the_slots():
    """Only the allowed values are drawn, in every split."""
    where = {"count": ("one",), "colour": ("red", "blue")}
    for split in SPLITS:
        for i in range(20):
            slots = FAMILIES["attributes"].example(i, split, where=where)[0].slots
            assert slots["count"] == "one" and slots["colour"] in ("red", "blue")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: family("dreams"), "dreams.*attributes"),
        (lambda: World(["dreams"], 64), "dreams.*attributes"),
        (lambda: World(["attributes"], 65), "24.*128.*65"),
        (lambda: World(["attributes"], 64, "dev"), "dev.*train, test, zero-shot"),
        (lambda: World(["attributes"], 64, where={"smell": ("bad",)}), "smell.*count"),
        (lambda: World(["attributes"], 64, where={"colour": ("mauve",)}), "mauve.*red"),
        (lambda: World(["attributes"], 64, where={"colour": ()}), "no train scene.*colour"),
        (
            lambda: World(["attributes", "creatures"], 64, where={"colour": ("black",)}),
            "'black'",
        ),
        (
            lambda: World(["attributes", "objects"], 24, where={"arrangement": ("diagonal",)}),
            "diagonal",
        ),
        (lambda: World([], 64), "no family.*attributes"),
    ],
)
def test_wrong_arguments_are_errors_that_name_them(call, words):
    """Reported when the source is made, not in the middle of a run."""
    with pytest.raises(ValueError, match=words):
        call()


def test_a_source_has_a_length_and_ends():
    """Negative and too large indices are IndexErrors, so that a for loop ends."""
    source = World(["attributes"], 24, length=3)
    assert len(source) == 3 and len(list(source)) == 3
    for index in (-1, 3):
        with pytest.raises(IndexError):
            source[index]


def test_families_take_turns():
    """Example i belongs to family i mod their number, and is that family's example i div it."""
    source = World(NAMES, 24, "test", seed=3)
    for i in range(7):
        example = source[i]
        own = FAMILIES[NAMES[i % len(NAMES)]]
        scene, caption = own.example(i // len(NAMES), "test", 3)
        assert (example.scene, example.caption) == (scene, caption)
        assert (example.picture == own.draw(scene, 24)).all()


def test_batches_are_consecutive_examples():
    """Picture, caption and scene stay together."""
    source = World(["lettering"], 24)
    (_, (pictures, captions, found)) = batches(source, 2, 2, first=5)
    assert pictures.shape == (2, 3, 24, 24)
    for k in range(2):
        assert captions[k] == source[7 + k].caption and found[k] == source[7 + k].scene
        assert (to_uint8(pictures)[k] == source[7 + k].picture).all()


@given(st.integers(0, 255))
def test_bytes_survive_the_way_to_floats_and_back(value):
    """uint8 → float in [0, 1] → uint8."""
    picture = np.full((2, 4, 3), value, np.uint8)
    x = to_float([picture])
    assert x.shape == (1, 3, 2, 4) and x.dtype == torch.float32
    assert x.min() >= 0 and x.max() <= 1
    assert (to_uint8(x)[0] == picture).all()


EXTRA_FAMILY = """
import numpy as np
from .base import Family, Scene

class Dots(Family):
    name, slots = "dots", {"side": ("left", "right"), "tone": ("dark", "pale")}
    held_out = (("left", "dark"),)
    def is_held_out(self, slots): return (slots["side"], slots["tone"]) in self.held_out
    def sample(self, rng):
        slots = {slot: rng.choice(values) for slot, values in self.slots.items()}
        return Scene(self.name, slots, (rng.randrange(99),))
    def captions(self, scene):
        s = scene.slots
        return [f"a {s['tone']} dot on the {s['side']}", f"{s['side']} {s['tone']} dot"]
    def draw(self, scene, size): return np.full((size, size, 3), scene.layout[0], np.uint8)

FAMILY = Dots()
"""
LOOK = """
from minidalle.data import World; from minidalle.world import FAMILIES; import minidalle
e = World(["dots", "attributes"], 32, "test")[0]
print(minidalle.__file__, sorted(FAMILIES), e.picture.shape, e.caption)
"""
JUDGED = """
from minidalle.examiner import Examiner, examine_examiner, fresh, may_learn
from minidalle.world import FAMILIES
found = [scene for scene, _ in fresh("dots", "zero-shot", 3)]
assert all(FAMILIES["dots"].is_held_out(scene.slots) and not may_learn(scene) for scene in found)
judge = Examiner(["dots", "attributes"], 32).eval()
findings = [finding for finding in examine_examiner(judge, 2) if finding.family == "dots"]
print(*sorted({finding.case for finding in findings}), sep="; ")
"""


def test_a_new_family_is_one_new_file(tmp_path):
    """Dropped into a copy of the package, it is found, listed, drawn and judged, with no other edit."""
    package = Path(minidalle.__file__).parent
    shutil.copytree(package, tmp_path / "minidalle", ignore=shutil.ignore_patterns("weights"))
    (tmp_path / "minidalle" / "world" / "dots.py").write_text(EXTRA_FAMILY)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = partial(subprocess.run, cwd=tmp_path, env=env, capture_output=True, text=True)
    drawn = run([sys.executable, "-c", LOOK])
    assert drawn.returncode == 0, drawn.stderr
    assert str(tmp_path) in drawn.stdout and str(sorted([*NAMES, "dots"])) in drawn.stdout
    assert "(32, 32, 3)" in drawn.stdout and "dot" in drawn.stdout.splitlines()[0].split(")")[-1]
    command = [sys.executable, "-m", "minidalle", "world", "--family", "dots", "--n", "2"]
    written = run([*command, "--out", "dots.png"])
    assert written.returncode == 0, written.stderr
    assert "2 pictures" in written.stdout and (tmp_path / "dots.png").stat().st_size > 0
    judged = run([sys.executable, "-c", JUDGED])
    assert judged.returncode == 0, judged.stderr
    cases = judged.stdout.strip().split("; ")
    read = [
        f"{fact}, {split}"
        for fact in ("every fact", "family", "side", "tone")
        for split in SPLITS[1:]
    ]
    assert cases == sorted([*read, "another side", "another tone"])


def test_a_family_that_holds_nothing_out_has_no_zero_shot_scenes(monkeypatch):
    """The error says so, where more allowed values would not help; the other splits are there."""
    each = FAMILIES["attributes"]
    monkeypatch.setattr(type(each), "held_out", ())
    monkeypatch.setattr(type(each), "is_held_out", lambda self, slots: False)
    words = "'attributes' holds no composition out, so it has no zero-shot scenes; list some in held_out"
    with pytest.raises(ValueError, match=words):
        World(["attributes"], 24, "zero-shot")
    for split in ("train", "test"):
        assert World(["attributes"], 24, split)[0].scene.slots.keys() == each.slots.keys()
