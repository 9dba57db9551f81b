"""Sources of pictures: what is found, what is left out and why, splits, order, fingerprints, streams."""

import json
import os
import shutil
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from checks import assert_all_found, assert_splits_disjoint
from hypothesis import given
from hypothesis import strategies as st
from odd_files import GOOD, encoded, hostile, img2dataset, odd_folder, shard, two_colours, write
from PIL import Image, features
from torch.utils.data import DataLoader

from minidalle.data import World, batches, source
from minidalle.data import emoji as emoji_room
from minidalle.data.base import TEST_SHARE, clean, split_of, to_float
from minidalle.data.emoji import FONTS, NAMES, NEEDS_RAQM, NOT_IN_FONT, Emoji
from minidalle.data.folder import Folder
from minidalle.data.hub import Hub
from minidalle.data.shards import Shards, find_shards
from minidalle.data.stored import order

PNG = encoded(two_colours(), "PNG")
SPLITS = ("train", "test")
has_emoji = pytest.mark.skipif(
    not any(path.is_file() for path in FONTS) or not any(path.is_file() for path in NAMES),
    reason="needs the packages fonts-noto-color-emoji and unicode-data",
)


def both(make) -> list:
    """A source's two splits."""
    return [make(split) for split in SPLITS]


def folder_of(root: Path, captions: dict[str, str | None]) -> Path:
    """A folder with a small picture for every name, each with its caption beside it or None."""
    for name, caption in captions.items():
        write(root / name, PNG, caption)
    return root


def train_names(n: int, form: str = "p{}.png") -> list[str]:
    """The first n names of a form that belong to the train split."""
    names = (form.format(k) for k in range(100 * n))
    return [name for name in names if split_of(name) == "train"][:n]


# --------------------------------------------------------------------------------------------- folder


def test_an_odd_folder_gives_all_of_its_pictures(tmp_path):
    """Nested folders, same stems in three of them, suffixes in any case, grey ones; each with its caption."""
    found = both(lambda split: Folder(odd_folder(tmp_path), 16, split))
    captions = [each.texts[k][0] for each in found for k in range(len(each))]
    assert sorted(captions) == sorted(f"a picture of thing {k}" for k in range(GOOD))
    for each in found:
        for k, name in enumerate(each.names):
            number = int(each[k].caption.split()[-1])
            assert name.startswith(f"{number % 3}/deep/same{number // 3}.")
            assert each[k].picture.shape == (16, 16, 3) and each[k].picture.dtype == np.uint8
    assert "picture" not in str(found[0].skipped)


def test_what_cannot_be_used_is_counted_listed_and_skipped(tmp_path):
    """Every hostile file and the one without a caption, by name, with a reason; hidden files do not count."""
    found = both(lambda split: Folder(odd_folder(tmp_path), 16, split))
    skipped = {skip.name: skip.why for each in found for skip in each.skipped}
    expected = {f"bad/{name}": "unreadable" for name in hostile()}
    assert skipped == expected | {"no caption.png": "without a caption"}
    assert all(skip.detail for each in found for skip in each.skipped if skip.why == "unreadable")
    train = found[0]
    assert f"{len(train)} pictures" in train.report()
    reasons = Counter(skip.why for skip in train.skipped)
    assert f"{reasons['unreadable']} unreadable" in train.report()
    assert train.skipped[0].name in train.report() and "more" in train.report()


def test_same_stems_in_two_folders_stay_two_pictures(tmp_path):
    """And two suffixes of one stem in one folder share its caption."""
    names = train_names(3, "a{}/x.png")
    folder_of(tmp_path, {name: f"from {name}" for name in names})
    jpeg = names[0].replace(".png", ".JPG")
    write(tmp_path / jpeg, encoded(two_colours(), "JPEG"))
    found = {}
    for each in both(lambda split: Folder(tmp_path, 8, split)):
        found |= dict(zip(each.names, each.texts, strict=True))
    assert_all_found(
        found, {name: (f"from {name}",) for name in names} | {jpeg: (f"from {names[0]}",)}
    )


TABLES = {
    "captions.csv": "file_name,caption\n{0},one\n{0},two\n{1},three\n",
    "Metadata.CSV": "\ufefffilename;nr;Text\n{0};1;one\n{0};2;two\n{1};3;three\n",
    "captions.tsv": "image\ttext\n{0}\tone\n{0}\ttwo\n{1}\tthree\n",
    "captions.jsonl": '{{"file_name": "{0}", "text": ["one", "two"]}}\n\nnonsense\n[1]\n'
    '{{"file_name": "{1}", "text": "three"}}\n',
}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("where", ["", "deep/"])
def test_captions_come_from_tables_too(tmp_path, table, where):
    """Comma, semicolon or tab, a byte order mark, lists, several rows of a picture; relative paths."""
    names = train_names(2, where + "p{}.png")
    folder_of(tmp_path, dict.fromkeys(names))
    text = TABLES[table].format(*(name.removeprefix(where) for name in names))
    write(tmp_path / where / table, text.encode())
    found = Folder(tmp_path, 8)
    assert found.names == names and found.texts == [("one", "two"), ("three",)]
    assert found.captions(9) == ["one", "two", "three"] and found.captions(2) == ["one", "two"]
    broken = [skip.name for skip in found.skipped]
    assert broken == ([f"{where}{table}, line 3"] if table.endswith("jsonl") else [])


def test_a_row_without_the_columns_is_skipped(tmp_path):
    """In a table whose first row has them; a cell of megabytes ends the table, and what was before counts."""
    one, two = train_names(2)
    folder_of(tmp_path, {one: None, two: None})
    lines = [
        {"file_name": one, "caption": "mine"},
        {"file_name": two},
        {"file_name": two, "text": "too"},
    ]
    write(tmp_path / "captions.jsonl", "\n".join(map(json.dumps, lines)).encode())
    cell = "x" * 200_000
    write(tmp_path / "captions.csv", f"file_name,caption\n{two},also\n{two},{cell}\n".encode())
    found = Folder(tmp_path, 8)
    assert found.texts == [("mine",), ("also", "too")]
    assert [skip.name for skip in found.skipped] == ["captions.csv", "captions.jsonl, row 2"]


def test_closed_folders_and_names_that_are_no_text_are_no_end(tmp_path, monkeypatch):
    """A folder that may not be listed and a text that may not be read are listed; odd names are shown."""
    names = train_names(2)
    folder_of(tmp_path, dict.fromkeys(names, "thing"))
    folder_of(tmp_path / "closed", {"x.png": "thing"})
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(odd)).write_bytes(b"no picture")
    Path(os.fsdecode(odd)).with_suffix(".txt").write_text("thing")
    listing, reading = os.scandir, Path.read_bytes

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    def read_bytes(path):
        if path.name == names[1].replace("png", "txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return reading(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    found = both(lambda split: Folder(tmp_path, 8, split))
    assert found[0].names == [names[0]]
    skipped = {skip.name: skip.why for each in found for skip in each.skipped}
    assert skipped == {
        str(tmp_path / "closed"): "unreadable", os.fsdecode(b"caf\xe9.png"): "unreadable",
        names[1]: "without a caption", names[1].replace("png", "txt"): "unreadable as text",
    }  # fmt: skip
    for each in found:
        assert each.report().encode()


def test_rows_without_their_picture_are_listed(tmp_path):
    """A name that is not there, or that leads out of the folder, is no picture of the folder."""
    (name,) = train_names(1)
    folder_of(tmp_path / "in", {name: None})
    folder_of(tmp_path, {"out.png": "secret"})
    rows = f"file_name,caption\n{name},mine\ngone.png,lost\n../out.png,outside\n"
    write(tmp_path / "in/captions.csv", rows.encode())
    found = Folder(tmp_path / "in", 8)
    assert found.captions(9) == ["mine"]
    assert [skip.name for skip in found.skipped] == [
        "captions.csv: gone.png",
        "captions.csv: ../out.png",
    ]


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("captions.csv", "file_name,caption\n{0}\n{1},mine\n"),
        (
            "metadata.jsonl",
            '{{"file_name": "{0}", "caption": null}}\n{{"file_name": "{1}", "caption": "mine"}}\n',
        ),
    ],
)
def test_a_first_row_without_its_caption_is_one_picture_less(tmp_path, table, text):
    """The columns are there: the picture is listed as without a caption, the others are read."""
    names = train_names(2)
    folder_of(tmp_path, dict.fromkeys(names))
    write(tmp_path / table, text.format(*names).encode())
    found = Folder(tmp_path, 8)
    assert found.captions(9) == ["mine"]
    assert {skip.name: skip.why for skip in found.skipped} == {names[0]: "without a caption"}


def test_every_line_of_a_text_is_a_caption(tmp_path):
    """Blank lines are none; UTF-16 with its mark is read; other bytes are listed."""
    lines, wide, broken = train_names(3)
    folder_of(tmp_path, {lines: "\ufeffone\n\n  two  words \n", wide: None, broken: None})
    (tmp_path / wide).with_suffix(".TXT").write_bytes("größe 🦊".encode("utf-16"))
    (tmp_path / broken).with_suffix(".txt").write_bytes(b"\xff\xfaabc")
    found = Folder(tmp_path, 8)
    assert dict(zip(found.names, found.texts, strict=True)) == {
        lines: ("one", "two words"),
        wide: ("größe 🦊",),
    }
    whys = {skip.name: skip.why for skip in found.skipped}
    assert whys == {broken: "without a caption", broken[:-3] + "txt": "unreadable as text"}


def test_captions_are_text_in_one_line():
    """No line ends, no half characters, "" for None: what the tokenizer can read."""
    assert clean(" a\r\n b\ud83d\tc ") == "a b c" and clean(None) == "" and clean(12) == "12"


def test_the_order_of_a_folder_is_that_of_its_names(tmp_path):
    """Whatever order the files were made in."""
    names = [f"{k % 3}/{k:02d}.png" for k in range(20)]
    first = folder_of(tmp_path / "a", dict.fromkeys(names, "thing"))
    second = folder_of(tmp_path / "b", dict.fromkeys(reversed(names), "thing"))
    assert Folder(first, 8).names == Folder(second, 8).names == sorted(Folder(first, 8).names)


def test_filters_drop_and_count(tmp_path):
    """The four faults, one picture each; without filters all of them stay."""
    faults = {"tall": (20, 70), "short": "cat", "foreign": "eine Katze auf dem Sofa",
              "standard": "IMG_2043.JPG", "good": "a cat on a sofa", "wide enough": (70, 35)}  # fmt: skip
    for name, fault in zip(train_names(6), faults.values(), strict=True):
        image = two_colours(*fault) if isinstance(fault, tuple) else two_colours()
        caption = fault if isinstance(fault, str) else "a cat on a sofa"
        write(tmp_path / name, encoded(image, "PNG"), caption)
    assert len(Folder(tmp_path, 8)) == len(source(f"folder:{tmp_path}", 8)) == 6
    found = source(f"folder:{tmp_path}", 8, filtered=True)
    assert [found.names.index(name) for name in (train_names(6)[4], train_names(6)[5])] == [0, 1]
    for why in ("very short", "not English", "boilerplate", "aspect ratios"):
        assert sum(why in skip.why for skip in found.skipped) == 1, why
    assert "1 outside the aspect ratios 1:2 to 2:1" in found.report()


def test_of_several_captions_the_bad_ones_are_dropped(tmp_path):
    """The picture stays as long as it has a good one."""
    folder_of(tmp_path, {train_names(1)[0]: "cat\na cat on a sofa\nIMG_1.jpg"})
    assert Folder(tmp_path, 8, filtered=True).texts == [("a cat on a sofa",)]


# ----------------------------------------------------------------------------------- splits, fingerprints


@given(st.lists(st.text(min_size=1), unique=True, min_size=1))
def test_a_name_has_exactly_one_split(names):
    """A pure function of the name alone; both splits together are everything."""
    first, again = [split_of(name) for name in names], [split_of(name) for name in reversed(names)]
    assert first == again[::-1] and set(first) <= set(SPLITS)


def test_one_picture_in_sixteen_is_for_testing():
    """Over many names, within four standard deviations."""
    n = 20_000
    share = sum(split_of(f"folder/{k}.jpg") == "test" for k in range(n)) / n
    assert abs(share - 1 / TEST_SHARE) < 4 * (1 / TEST_SHARE / n) ** 0.5


def test_the_splits_of_a_folder_are_disjoint_and_complete(tmp_path):
    """Also after more pictures came, none of the old ones has moved to the other side."""
    folder_of(tmp_path, {f"{k}.png": "thing" for k in range(40)})

    def split():
        return {s: Folder(tmp_path, 8, s).names for s in ("train", "test")}

    assert_splits_disjoint(split, {f"{k}.png" for k in range(40)})
    train, test = map(set, split().values())
    assert test
    folder_of(tmp_path, {f"{k}.png": "thing" for k in range(40, 80)})
    more_train, more_test = (set(each.names) for each in both(lambda s: Folder(tmp_path, 8, s)))
    assert train < more_train and test < more_test and not more_train & more_test


def repainted(root: Path, name: str) -> None:
    image = Image.open(root / name).convert("RGB")
    image.putpixel((0, 0), (0, 0, 1))
    image.save(root / name, "PNG")


CHANGES = {
    "one pixel": lambda root, name: repainted(root, name),
    "caption": lambda root, name: (root / name).with_suffix(".txt").write_text("another"),
    "name": lambda root, name: [
        path.rename(path.with_stem(Path(train_names(9)[8]).stem))
        for path in (root / name, (root / name).with_suffix(".txt"))
    ],
    "one more": lambda root, name: folder_of(root, {train_names(9)[8]: "thing"}),
    "one less": lambda root, name: (root / name).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_a_folder_changes_its_fingerprint(tmp_path, change):
    """The same data elsewhere and later has the same one; each change, the size and the split another."""
    names = train_names(3)
    root = folder_of(tmp_path / "a", dict.fromkeys(names, "thing"))
    first = Folder(root, 8).fingerprint
    shutil.copytree(root, tmp_path / "b")
    for path in (tmp_path / "b").iterdir():
        os.utime(path, (1, 1))
    assert Folder(tmp_path / "b", 8).fingerprint == first == source(f"folder:{root}", 8).fingerprint
    CHANGES[change](tmp_path / "b", names[1])
    others = [Folder(tmp_path / "b", 8), Folder(root, 9), Folder(root, 8, "test")]
    assert len({first} | {each.fingerprint for each in others}) == 4


def test_the_worlds_fingerprint_depends_on_everything():
    """Families, size, split, seed, slots, length; the same settings have the same."""
    settings = {"families": ["attributes"], "size": 24}
    changes = [
        {}, {"families": ["objects"]}, {"families": ["attributes", "objects"]}, {"size": 32},
        {"split": "test"}, {"seed": 1}, {"where": {"count": ("one",)}}, {"length": 9},
    ]  # fmt: skip
    marks = [World(**settings | change).fingerprint for change in changes]
    assert len(set(marks)) == len(changes) and marks[0] == World(**settings).fingerprint


def test_a_family_with_more_turns_shows_new_scenes_in_each():
    """Three turns of four are of attributes: its first examples in order, no scene twice."""
    plain = World(["objects", "attributes"], 24, seed=5)
    more = plain.with_more(["attributes", "attributes"])
    scenes = [more.scene(i) for i in range(40)]
    attributes = [scenes[i] for i in range(40) if i % 4]
    assert scenes[::4] == [plain.scene(2 * i) for i in range(10)]
    assert attributes == [plain.scene(2 * i + 1) for i in range(30)]
    assert (more[1].picture == plain[1].picture).all() and more[1].scene == plain[1].scene
    assert more.fingerprint != plain.fingerprint and plain.with_more([]).scene(7) == plain.scene(7)
    assert plain.report().endswith(", of objects, attributes"), "one turn needs no word"
    assert more.report().endswith(", of objects, attributes (3 turns)")
    assert (more.split, more.seed, more.where) == (plain.split, plain.seed, plain.where)


def test_the_worlds_fingerprint_depends_on_the_code_that_draws(tmp_path, monkeypatch):
    """A changed family is other data."""
    from minidalle import world

    copy = shutil.copytree(Path(world.__file__).parent, tmp_path / "world")
    first = World(["attributes"], 24).fingerprint
    monkeypatch.setattr(world, "__file__", str(copy / "__init__.py"))
    assert World(["attributes"], 24).fingerprint == first
    text = (copy / "attributes.py").read_text()
    (copy / "attributes.py").write_text(text + "\n# changed\n")
    assert World(["attributes"], 24).fingerprint != first


# ------------------------------------------------------------------------------------- walking through


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Folder:
    """Seven pictures of seven colours for training, the first of them with three captions."""
    root = tmp_path_factory.mktemp("things")
    for k, name in enumerate(train_names(7)):
        image = Image.new("RGB", (40, 30), (30 * k, 99, 50))
        image.paste((30 * k, 0, 200), (0, 0, 20, 30))
        write(
            root / name,
            encoded(image, "PNG"),
            "thing 0\nalso 0\n0 again" if k == 0 else f"thing {k}",
        )
    return Folder(root, 16)


def number(example) -> int:
    """Which of the seven a picture is."""
    return round(float(np.median(example.picture[..., 0])) / 30)


@pytest.mark.parametrize("stage", [None, 1, 2])
def test_every_epoch_shows_every_picture_once(things, stage):
    """In a new order each time; picture and caption stay together."""
    endless = things.training(stage, seed=0)
    shown = [endless[position] for position in range(140)]
    rounds = [tuple(map(number, shown[k : k + 7])) for k in range(0, 140, 7)]
    assert all(sorted(each) == list(range(7)) for each in rounds) and len(set(rounds)) > 1
    for example in shown:
        assert str(number(example)) in example.caption and example.scene is None
        assert example.picture.shape == (16, 16, 3)
    assert {e.caption for e in shown if number(e) == 0} == {"thing 0", "also 0", "0 again"}


@pytest.mark.parametrize("stage", [None, 1, 2])
def test_a_position_decides_everything(things, stage):
    """Asked in any order, by any process: the same example. Another seed: others."""
    one, two, other = (things.training(stage, seed) for seed in (5, 5, 6))
    for position in (30, 3, 100, 0):
        assert (one[position].picture == two[position].picture).all()
        assert one[position].caption == two[position].caption
    assert [number(one[k]) for k in range(28)] != [number(other[k]) for k in range(28)]
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert (order(99, 1, 2) == order(99, 1, 2)).all() and (order(99, 1, 2) != order(99, 1, 3)).any()


def test_there_is_no_last_picture(things):
    """As long as the world for who asks for a length; a round of seven goes on at any position."""
    endless = things.training(None, 0)
    assert len(endless) == len(World(["attributes"], 24))
    start = 7 * 10**6
    assert sorted(number(endless[start + k]) for k in range(7)) == list(range(7))


def test_only_stage_one_mirrors(things):
    """The left half is bluer in every picture; mirrored ones give themselves away."""

    def mirrored(stage: int | None) -> int:
        pictures = [things.training(stage, 0)[k].picture.astype(int) for k in range(140)]
        return sum(p[:, 0, 2].mean() < p[:, -1, 2].mean() for p in pictures)

    assert mirrored(2) == mirrored(None) == 0 and 50 < mirrored(1) < 90


def test_epochs_can_be_shared_by_workers(things):
    """A DataLoader with two processes gives what one process gives."""
    endless = things.training(1, 0)
    loader = DataLoader(endless, batch_size=None, sampler=range(4, 18), num_workers=2)
    for position, example in zip(range(4, 18), loader, strict=True):
        assert (np.asarray(example.picture) == endless[position].picture).all()


def test_batches_start_anywhere(things):
    """Batches of an endless source are its consecutive examples from any position on."""
    endless = things.training(2, 0)
    first, (pictures, captions, _) = list(batches(endless, 4, 2, first=5))
    assert len(first[1]) == 4 and pictures.shape == (4, 3, 16, 16)
    assert captions == [endless[position].caption for position in range(9, 13)]


def test_pictures_that_are_divided_already_are_an_error():
    """Divided by 255 once more they would be black, and no check of a range could tell."""
    picture = np.full((4, 4, 3), 255, np.uint8)
    assert to_float([picture]).unique() == 1
    with pytest.raises(ValueError, match="uint8.*float64.*255"):
        to_float([picture / 255])


def test_an_empty_split_cannot_be_trained_on(tmp_path):
    """It has length 0, and asking it for pictures without end is an error, not a hang."""
    test = Folder(folder_of(tmp_path, {train_names(1)[0]: "thing"}), 8, "test")
    assert len(test) == 0 and list(test) == [] and test.captions(3) == []
    with pytest.raises(ValueError, match="no picture in its test split"):
        test.training(1, 0)


# ----------------------------------------------------------------------------------------------- emoji

PLANTED = """
# subgroup: face-smiling
1F600 ; fully-qualified     # 😀 E1.0 grinning face
263A FE0F ; fully-qualified # ☺️ E0.6 smiling face
263A ; unqualified          # ☺ E0.6 smiling face
1F44B 1F3FD ; fully-qualified # 👋🏽 E1.0 waving hand: medium skin tone
1FAE9 ; fully-qualified     # x E99.0 emoji of the future
1F469 200D 1FAE9 ; fully-qualified # x E99.0 woman and future
"""


@pytest.mark.parametrize("missing", ["font", "names"])
def test_a_missing_font_or_list_of_names_says_how_to_install_it(tmp_path, monkeypatch, missing):
    """Wherever they are looked for, with or without the packages on this machine."""
    there = write(tmp_path / "there", b"")
    places = {"font": "FONTS", "names": "NAMES"}
    for part, name in places.items():
        monkeypatch.setattr(emoji_room, name, (tmp_path / "gone" if part == missing else there,))
    with pytest.raises(
        FileNotFoundError, match="gone.*apt-get install fonts-noto-color-emoji unicode-data"
    ):
        source("emoji", 32)


def test_a_file_that_is_no_font_is_named(tmp_path):
    """A planted font of nonsense: the error names it."""
    font = write(tmp_path / "font.ttf", b"no font")
    names = write(tmp_path / "names.txt", PLANTED.encode())
    with pytest.raises(ValueError, match=r"font\.ttf is no font.*apt-get"):
        Emoji(32, font=font, names=names)


@has_emoji
def test_emoji_are_drawn_with_their_names(tmp_path):
    """All of them: distinct, coloured, on white, none blank; names in both splits, each in one."""
    train, test = both(lambda split: source("emoji", 64, split))
    assert not set(train.names) & set(test.names) and len(train) + len(test) > 1800
    assert not train.skipped and not any("skin tone" in name for name in train.names)
    assert {"red heart", "flag: Japan", "woman astronaut"} <= set(train.names) | set(test.names)
    drawn = [example.picture for example in test]
    assert len({picture.tobytes() for picture in drawn}) == len(drawn)
    assert all((picture < 250).any() and picture.shape == (64, 64, 3) for picture in drawn)
    each = next(each for each in (train, test) if "red heart" in each.names)
    heart = each[each.names.index("red heart")]
    assert heart.caption == "red heart" and (heart.picture[0, 0] == 255).all()
    red, green, blue = heart.picture[32, 32].astype(int)
    assert red > 180 and green < 90 and blue < 90


@has_emoji
def test_emoji_that_the_font_lacks_are_listed(tmp_path):
    """Code points and sequences that are newer than the font: listed, not drawn as boxes or in pieces."""
    names = write(tmp_path / "names.txt", PLANTED.encode())
    found = both(lambda split: Emoji(32, split, names=names) if split == "train" else None)[0]
    skipped = {skip.name: skip.why for skip in found.skipped}
    mine = {
        name for name in ("emoji of the future", "woman and future") if split_of(name) == "train"
    }
    assert skipped == dict.fromkeys(mine, NOT_IN_FONT) and mine
    assert set(found.names) <= {"grinning face", "smiling face"}


@has_emoji
def test_without_raqm_sequences_are_left_out(monkeypatch):
    """Pillow then draws single code points only; the others are listed."""
    monkeypatch.setattr(features, "check", lambda name: False)
    found = Emoji(32)
    assert len(found) > 500 and all(len(glyph) == 1 for glyph in found.glyphs)
    assert {skip.why for skip in found.skipped} == {NEEDS_RAQM}


@has_emoji
def test_the_fingerprint_of_emoji_depends_on_their_files(tmp_path):
    """Size, split, names."""
    names = write(tmp_path / "names.txt", PLANTED.encode())
    every = [Emoji(32), Emoji(33), Emoji(32, "test"), Emoji(32, names=names)]
    assert len({each.fingerprint for each in every}) == 4
    assert Emoji(32).fingerprint == every[0].fingerprint


# ---------------------------------------------------------------------------------------------- shards


def read(dataset, workers: int) -> list[str]:
    """All captions that a DataLoader with so many processes gives."""
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    return [example.caption for example in loader]


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    """Five shards of eleven samples, the last one of each a failed download."""
    return img2dataset(tmp_path_factory.mktemp("tars"), shards=5, each=11, failed=1)


def everything(tars: Path) -> set[str]:
    return {f"the caption of thing {11 * s + k}" for s in range(5) for k in range(10)}


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shards_are_split_without_overlap_or_loss(tars, monkeypatch, processes, workers):
    """Over processes and over real workers, with more and with fewer readers than shards."""
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    captions = []
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        captions += [c for split in SPLITS for c in read(Shards(str(tars), 8, split), workers)]
    assert len(captions) == len(set(captions)) and set(captions) == everything(tars)


def test_no_reader_is_idle_where_there_are_few_shards(tars, monkeypatch):
    """Eight processes share five shards sample by sample: five to seven pictures each."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    for rank in range(8):
        monkeypatch.setenv("RANK", str(rank))
        assert sum(len(list(Shards(str(tars), 8, split))) for split in SPLITS) in (5, 6, 7)


@pytest.mark.parametrize("workers", [0, 2])
def test_failed_downloads_are_counted(tars, workers):
    """One in each shard has a .json and no .jpg; counts come back from the workers, also a second time."""
    found = Shards(str(tars), 8)
    other = sum(split_of(f"{s:05d}.tar/{s:05d}{10:04d}") == "test" for s in range(5))
    for _ in range(2):
        n = len(read(found, workers))
        assert f"read so far: {n} pictures" in found.report()
        assert f"{5 - other} without a picture" in found.report()
    assert len(list(found)) == n and f"read so far: {n} pictures" in found.report()


def test_a_shard_gives_the_pictures_that_are_in_it(tars):
    """Picture and caption belong together; the number is in the colour."""
    for example in Shards(str(tars), 8):
        wanted = int(example.caption.split()[-1])
        assert np.abs(example.picture.astype(int) - (wanted, 0, 99)).max() <= 4


@pytest.mark.parametrize("workers", [0, 2])
def test_training_on_shards_never_ends_and_repeats_nothing_within_an_epoch(tars, workers):
    """Two epochs: each has everything once over all workers, in another order; pure function of the seed."""
    shards = Shards(str(tars), 8)
    n = len(list(shards))

    def stream(seed: int) -> list[str]:
        loader = DataLoader(shards.training(1, seed), batch_size=None, num_workers=workers)
        return [example.caption for example, _ in zip(loader, range(2 * n), strict=False)]

    first, again, other = stream(0), stream(0), stream(1)
    assert first == again != other
    if workers == 0:
        assert set(first[:n]) == set(first[n:]) == {e.caption for e in shards}
        assert first[:n] != first[n:]
    else:
        assert set(first) == {e.caption for e in shards}


WIDE = b'{"original_width": 900, "original_height": 80}'


def damage(tars: Path, folder: Path) -> Path:
    """The five shards and: half a shard, a file that is none, and bad samples in a whole one."""
    shutil.copytree(tars, folder)
    half = (folder / "00001.tar").read_bytes()
    (folder / "00005.tar").write_bytes(half[: len(half) * 6 // 10 // 512 * 512 + 100])
    (folder / "00006.tar").write_bytes(b"this is no tar file" * 100)
    picture = encoded(Image.new("RGB", (48, 36)), "JPEG")
    samples = {
        "ok": {"jpg": picture, "txt": b"a good one"},
        "from json": {"webp": encoded(two_colours(), "WEBP"), "json": b'{"caption": "a caption in json"}'},
        "half": {"jpg": picture[: len(picture) // 2], "txt": b"half a picture"},
        "dumb": {"jpg": picture, "json": b"nonsense"},
        "short": {"jpg": picture, "txt": b"cat"},
        "foreign": {"jpg": picture, "txt": b"eine Katze auf dem Sofa"},
        "shape": {"jpg": picture, "txt": b"a very wide picture", "json": WIDE},
        "binary": {"jpg": picture, "txt": b"\xff\xfe\xfd"},
    }  # fmt: skip
    numbered = [(f"{k:03d}", parts) for k in range(20) for parts in samples.values()]
    shard(folder / "00007.tar", [(f"{key}{i}", parts) for i, (key, parts) in enumerate(numbered)])
    return folder


@pytest.mark.parametrize("workers", [0, 2, 9])
def test_damaged_shards_and_samples_are_counted_and_skipped(tars, tmp_path, workers):
    """Two damaged shards, half a picture, no caption: counted by reason; all that is whole is read."""
    folder = damage(tars, tmp_path / "damaged")
    total, captions = Counter(), []
    for split in SPLITS:
        found = Shards(str(folder), 8, split)
        captions += read(found, workers)
        left_out = found.report().split("left out: ")[1]
        total.update(
            {why: int(n) for n, why in (part.split(" ", 1) for part in left_out.split(", "))}
        )
    assert total.pop("damaged shards") == 2 * len(SPLITS), "each split meets them"
    cut_off = total.pop("without a picture")
    assert total == {
        "unreadable": 20, "without a caption": 40, "with a very short caption": 20,
        "with a caption that is not English": 20, "outside the aspect ratios 1:2 to 2:1": 20,
    }  # fmt: skip
    assert set(captions) == everything(tars) | {"a good one", "a caption in json"}
    assert Counter(captions)["a good one"] == Counter(captions)["a caption in json"] == 20
    again = [caption for caption, n in Counter(captions).items() if n == 2]
    assert 3 <= len(again) <= 9 and cut_off in (5, 6), (
        "the half shard repeats samples of a whole one"
    )


def test_after_a_name_that_comes_twice_the_shard_goes_on(tmp_path):
    """The second file of a name is left out, the shard counts as damaged, later samples are read."""
    parts = {"jpg": encoded(Image.new("RGB", (48, 36)), "JPEG"), "txt": b"a good one"}
    numbered = [(f"{k:02d}", parts) for k in range(20)]
    shard(tmp_path / "0.tar", [numbered[0], *numbered])
    found = both(lambda split: Shards(str(tmp_path), 8, split))
    assert sum(len(list(each)) for each in found) == 20
    assert all("1 damaged shards" in each.report() for each in found)


def test_filters_are_on_for_shards_unless_said_otherwise(tars, tmp_path):
    """Pictures from the web are filtered by default."""
    folder = damage(tars, tmp_path / "damaged")
    with_filters, without = (
        set(read(source(f"webdataset:{folder}", 8, filtered=f), 0)) for f in (None, False)
    )
    assert {"cat", "eine Katze auf dem Sofa", "a very wide picture"} == without - with_filters


def test_patterns_name_shards(tars):
    """A folder, a glob, braces; what is named and not there is listed."""
    assert [path.name for path in find_shards(str(tars))[0]] == [f"{k:05d}.tar" for k in range(5)]
    assert len(find_shards(f"{tars}/0000[13].tar")[0]) == 2
    found = Shards(f"{tars}/{{00003..00006}}.tar", 8)
    assert [path.name for path in found.paths] == ["00003.tar", "00004.tar"]
    assert [Path(skip.name).name for skip in found.skipped] == ["00005.tar", "00006.tar"]
    assert "00006.tar: no such shard" in found.report()
    with pytest.raises(FileNotFoundError, match="no tar file fits"):
        Shards(f"{tars}/{{7..9}}.tar", 8)


def test_the_fingerprint_of_shards_is_of_their_bytes(tars, tmp_path):
    """Copied: the same; one byte of one picture: another."""
    shutil.copytree(tars, tmp_path / "copy")
    first = Shards(str(tars), 8).fingerprint
    assert Shards(str(tmp_path / "copy"), 8).fingerprint == first
    data = bytearray((tmp_path / "copy/00002.tar").read_bytes())
    data[700] ^= 1
    (tmp_path / "copy/00002.tar").write_bytes(data)
    others = [Shards(str(tmp_path / "copy"), 8), Shards(str(tars), 9), Shards(str(tars), 8, "test"),
              Shards(str(tars), 8, filtered=False)]  # fmt: skip
    assert len({first} | {each.fingerprint for each in others}) == 5


def test_captions_of_shards_are_those_of_the_split(tars):
    """Without decoding a picture; at most n, and none of a failed download's picture is needed."""
    shards = Shards(str(tars), 8)
    assert {example.caption for example in shards} <= set(shards.captions(999))
    assert len(shards.captions(7)) == 7
    assert not set(shards.captions(999)) & set(Shards(str(tars), 8, "test").captions(999))


def test_a_damaged_shard_does_not_end_training_on_the_others(tars, tmp_path):
    """With two readers one of them may get nothing else in an epoch: it goes on to the next."""
    good = tmp_path / "shards"
    good.mkdir()
    shutil.copy(tars / "00000.tar", good / "00000.tar")
    (good / "00001.tar").write_bytes(b"not a tar file at all" * 100)
    loader = DataLoader(Shards(str(good), 8).training(1, 0), batch_size=None, num_workers=2)
    names = [example.caption for example in islice(loader, 60)]
    assert len(names) == 60 and set(names) <= {example.caption for example in Shards(str(good), 8)}


def test_training_on_shards_without_a_picture_is_an_error(tmp_path):
    """Instead of a search without end."""
    shard(tmp_path / "0.tar", [("a", {"txt": b"no picture at all"})])
    with pytest.raises(ValueError, match="nothing to train on.*1 without a picture"):
        next(iter(Shards(str(tmp_path), 8, split_of("0.tar/a")).training(1, 0)))


# ------------------------------------------------------------------------------------------------ hub


def rows(n: int = 70, **columns) -> dict:
    """n pictures whose red tells their number, and a column of captions."""
    pictures = [Image.new("RGB", (20, 20), (3 * k, 9, 9)) for k in range(n)]
    return {"image": pictures, "caption": [f"thing {k}" for k in range(n)]} | columns


@pytest.fixture
def datasets(monkeypatch, tmp_path_factory):
    """The library, imported when it is needed; it keeps what it reads in a folder of the test's."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    return library


@pytest.fixture
def saved(datasets, tmp_path):
    """Writes a data set to disk and gives what stands after ``hub:``."""

    def save(columns: dict, how: str = "disk") -> str:
        data = datasets.Dataset.from_dict(columns)
        if how == "disk":
            data.save_to_disk(tmp_path / "set")
        elif how == "splits":
            datasets.DatasetDict(train=data, test=data.select(range(2))).save_to_disk(
                tmp_path / "set"
            )
        else:
            data.to_parquet(tmp_path / "set" / "train.parquet")
        return str(tmp_path / "set")

    return save


@pytest.mark.parametrize("how", ["disk", "splits", "parquet"])
def test_a_local_data_set_is_read(saved, how):
    """As saved by the library, with splits of its own, or as Parquet files; both our splits are complete."""
    place = saved(rows(), how)
    found = both(lambda split: source(f"hub:{place}", 8, split))
    examples = [example for each in found for example in each]
    assert sorted(int(e.caption.split()[1]) for e in examples) == list(range(70))
    for example in examples:
        assert (example.picture[4, 4] == (3 * int(example.caption.split()[1]), 9, 9)).all()
    assert found[0].label == "hub:set" and len(found[1])
    assert Hub(place, 8).fingerprint == found[0].fingerprint != Hub(place, 9).fingerprint


def test_the_columns_are_found_by_kind_and_name(saved):
    """Other names, other columns beside them, lists of captions, rows without a picture or a caption."""
    texts = [[f"thing {k}", f"also {k}"] for k in range(70)]
    texts[3] = []
    columns = {"photo": rows()["image"], "sentences": texts, "url": ["x"] * 70, "width": [20] * 70}
    columns["photo"][5] = None
    place = saved(columns)
    found = both(lambda split: Hub(place, 8, split))
    assert all(len(texts) == 2 for each in found for texts in each.texts)
    skipped = {skip.name: skip.why for each in found for skip in each.skipped}
    assert skipped == {"3": "without a caption", "5": "unreadable"}


def test_columns_that_leave_a_choice_are_listed(saved):
    """Two of pictures: the error names all columns and how to choose; the choice works."""
    columns = rows()
    columns |= {"mask": columns["image"], "alt": ["other"] * 70}
    place = saved(columns)
    with pytest.raises(
        ValueError, match=r"image \(.*caption \(text\).*mask.*alt \(text\).*image=COLUMN"
    ):
        Hub(place, 8)
    assert Hub(f"{place},image=mask", 8).captions(2) == ["thing 0", "thing 1"]
    assert Hub(f"{place},image=mask,caption=alt", 8).captions(1) == ["other"]
    with pytest.raises(ValueError, match="columns image"):
        Hub(f"{place},image=caption", 8)
    with pytest.raises(ValueError, match="unknown setting 'colour'.*config"):
        Hub(f"{place},colour=red", 8)


def test_a_set_without_captions_or_pictures_is_an_error(saved):
    """The columns are listed."""
    with pytest.raises(ValueError, match=r"columns label \(int64\)"):
        Hub(saved({"label": [1, 2]}), 8)


def test_configurations_can_be_named(datasets, tmp_path):
    """A set with two configurations: the library's question is passed on, ``config=`` answers it."""
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        data = datasets.Dataset.from_dict(rows(caption=[f"some {name}"] * 70))
        data.to_parquet(tmp_path / name / "train.parquet")
    configs = "".join(
        f"- config_name: {n}\n  data_files: {n}/*.parquet\n" for n in ("cats", "dogs")
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    with pytest.raises(ValueError, match="cannot be loaded.*cats.*dogs"):
        Hub(str(tmp_path), 8)
    assert Hub(f"{tmp_path},config=dogs", 8).captions(1) == ["some dogs"]


def test_what_cannot_be_loaded_is_one_error(datasets, tmp_path):
    """No such folder; a folder with nothing in it."""
    with pytest.raises(FileNotFoundError, match="no folder.*nowhere"):
        Hub("./nowhere", 8)
    with pytest.raises(ValueError, match="hub:.*cannot be loaded"):
        Hub(str(tmp_path), 8)
    only_test = datasets.DatasetDict(test=datasets.Dataset.from_dict(rows()))
    only_test.save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="has the splits test, and none called train"):
        Hub(str(tmp_path / "set"), 8)


# ---------------------------------------------------------------------------------------- --data strings


@pytest.mark.parametrize(
    "data",
    [
        "",
        "worlds",
        "folder",
        "folder:",
        "world:3",
        "emoji:",
        "hub",
        "webdataset",
        "zip:a.zip",
        "a/b",
    ],
)
def test_unknown_kinds_are_errors_that_list_the_known(data):
    """What --data may be is said in the message."""
    with pytest.raises(
        ValueError, match="world, emoji, folder:PATH, webdataset:PATTERN or hub:NAME"
    ):
        source(data, 24)


def test_wrong_sizes_and_splits_are_errors(tmp_path):
    """For every kind that reads files."""
    folder_of(tmp_path, {train_names(1)[0]: "thing"})
    shard(tmp_path / "0.tar", [("a", {"txt": b"a"})])
    for kind in ("folder", "webdataset"):
        with pytest.raises(ValueError, match="unknown split 'zero-shot'; .* train and test"):
            source(f"{kind}:{tmp_path}", 8, "zero-shot")
        with pytest.raises(ValueError, match="at least 1 pixel.*not 0"):
            source(f"{kind}:{tmp_path}", 0)


def test_nothing_to_learn_from_is_an_error(tmp_path):
    """No folder, an empty one, one without captions, a table without the columns: what is wrong is said."""
    with pytest.raises(FileNotFoundError, match="no folder"):
        source(f"folder:{tmp_path}/nowhere", 8)
    with pytest.raises(ValueError, match="no pictures in"):
        source(f"folder:{tmp_path}", 8)
    folder_of(tmp_path, dict.fromkeys(train_names(2)))
    with pytest.raises(ValueError, match="nothing is left to train on.*2 without a caption"):
        source(f"folder:{tmp_path}", 8)
    (tmp_path / "captions.csv").write_text("name,words\na.png,b\n")
    with pytest.raises(
        ValueError, match=r"captions.csv has the columns name, words; .*file_name.*caption"
    ):
        source(f"folder:{tmp_path}", 8)


@pytest.mark.parametrize("library", ["datasets", "braceexpand"])
def test_a_missing_library_says_what_to_install(monkeypatch, tmp_path, library):
    """The extras are named."""
    import sys

    monkeypatch.setitem(sys.modules, library, None)
    extra = {"datasets": "hub", "braceexpand": "webdataset"}[library]
    with pytest.raises(ValueError, match=rf"pip install 'minidalle\[{extra}\]'"):
        source(f"{extra}:{tmp_path}", 8)


def every_source(root: Path, datasets) -> dict[str, str]:
    """A --data argument of every kind that this machine can serve."""
    folder = folder_of(root / "folder", {f"{k}.png": f"thing {k}" for k in range(20)})
    img2dataset(root / "tars", 2, 20)
    found = {
        "world": "world",
        "folder": f"folder:{folder}",
        "webdataset": f"webdataset:{root}/tars",
    }
    if any(p.is_file() for p in FONTS) and any(p.is_file() for p in NAMES):
        found["emoji"] = "emoji"
    datasets.Dataset.from_dict(rows()).save_to_disk(root / "set")
    return found | {"hub": f"hub:{root}/set"}


def test_all_sources_keep_the_same_promises(tmp_path, datasets):
    """Square uint8 pictures, captions, a fingerprint that the size changes, endless training, a report."""
    for kind, data in every_source(tmp_path, datasets).items():
        found, again, other = source(data, 24), source(data, 24), source(data, 32)
        example = next(iter(found))
        assert example.picture.shape == (24, 24, 3) and example.picture.dtype == np.uint8, kind
        assert isinstance(example.caption, str) and example.caption, kind
        assert found.fingerprint == again.fingerprint != other.fingerprint, kind
        assert len(found.fingerprint) == 16 and found.label.startswith(kind), kind
        assert str(tmp_path) not in found.label, "a card that is published names no folders"
        assert 0 < len(found.captions(10)) <= 10, kind
        for stage in (1, 2):
            ((pictures, captions, _),) = batches(found.training(stage, 0), 50, 1)
            assert pictures.shape == (50, 3, 24, 24) and len(captions) == 50, kind
        assert found.report().startswith("train" if kind == "world" else found.label), kind
        json.dumps([skip._asdict() for skip in found.skipped])
