"""Context, creatures, translation and time: what their captions say, and what they leave open, is drawn."""

import itertools
import math
import random
import re

import numpy as np
import pytest

from minidalle.presets import PRESETS
from minidalle.world import FAMILIES, Scene
from minidalle.world.canvas import PALETTE
from minidalle.world.context import LAMP, SKIES
from minidalle.world.time import CROWNS, DARK, HOURS, SNOW
from minidalle.world.translation import BACKGROUNDS, CHANGE_WORDS, SUBJECT_WORDS

NAMES = ("context", "creatures", "time", "translation")
DRAWN_SIZES = (32, 64, 128)
MIDDLE = (0, 0, 0)  # the layout of all four families: nothing nudged, the first background or tone


def draw(family: str, size: int = 64, layout: tuple[int, ...] = MIDDLE, **slots: str) -> np.ndarray:
    """A picture as signed numbers (S, S, 3); ``new_colour`` stands for the slot "new colour"."""
    facts = {slot.replace("_", " "): value for slot, value in slots.items()}
    return FAMILIES[family].draw(Scene(family, facts, layout), size).astype(int)


def shows(picture: np.ndarray, colour: tuple[int, int, int], within: int = 6) -> np.ndarray:
    """Where a picture has about that colour: bool (S, S)."""
    return (np.abs(picture - np.array(colour)) <= within).all(-1)


def samples(family: str, n: int = 4000) -> list[Scene]:
    """Scenes of all splits, as the family samples them."""
    rng = random.Random(0)
    return [FAMILIES[family].sample(rng) for _ in range(n)]


# ----------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize("name", NAMES)
def test_no_held_out_pair_meets_outside_the_zero_shot_split(name):
    """Counted over all pairs of a scene's values, without the family's own rule."""
    every, listed = FAMILIES[name], {frozenset(pair) for pair in FAMILIES[name].held_out}
    met = {split: set() for split in ("train", "test", "zero-shot")}
    for scene in samples(name, 12_000):
        pairs = {frozenset(pair) for pair in itertools.combinations(scene.slots.values(), 2)}
        met[every.split_of(scene)] |= pairs & listed
    assert not met["train"] and not met["test"]
    assert met["zero-shot"] == listed == {frozenset(pair) for pair in every.held_out}


@pytest.mark.parametrize("name", NAMES)
def test_between_a_fifteenth_and_a_fifth_of_the_scenes_are_held_out(name):
    """Enough to score, little enough to learn from the rest."""
    held_out = [FAMILIES[name].is_held_out(scene.slots) for scene in samples(name)]
    assert 1 / 15 < np.mean(held_out) < 1 / 5


@pytest.mark.parametrize("name", NAMES)
def test_there_are_thousands_of_scenes(name):
    """Four thousand draws, hardly one of them twice."""
    assert len({scene.digest() for scene in samples(name)}) > 3000


@pytest.mark.parametrize("size", DRAWN_SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_any_two_values_of_a_slot_look_different(name, size):
    """Not in a byte, but in pixels enough to be noticed: a two-hundredth of the picture, by a sixth of
    the range. All pairs of values of all slots, the rest of the scene being equal."""
    compared, found = set(), {}
    for scene in samples(name, 8000):
        for slot, value in scene.slots.items():
            rest = tuple(sorted((k, v) for k, v in scene.slots.items() if k != slot))
            found.setdefault((slot, rest), {}).setdefault(value, scene)
    for (slot, _), by_value in found.items():
        for one, two in itertools.combinations(sorted(by_value), 2):
            if (slot, one, two) in compared:
                continue
            compared.add((slot, one, two))
            layout = by_value[one].layout
            pictures = [
                FAMILIES[name].draw(Scene(name, by_value[v].slots, layout), size).astype(int)
                for v in (one, two)
            ]
            changed = (np.abs(pictures[0] - pictures[1]).max(-1) > 42).mean()
            assert changed > 1 / 200, (slot, one, two, changed)
    assert len(compared) > 40


@pytest.mark.parametrize("name", NAMES)
def test_one_step_of_any_layout_number_can_be_seen(name):
    """At 64 pixels: else a test picture could equal a training picture though their scenes differ."""
    for scene in samples(name, 300):
        picture = FAMILIES[name].draw(scene, 64)
        for k, number in enumerate(scene.layout):
            layout = list(scene.layout)
            layout[k] = number - 1 if number > 0 else number + 1
            moved = Scene(name, scene.slots, tuple(layout))
            assert (FAMILIES[name].draw(moved, 64) != picture).any(), (scene, k)


@pytest.mark.parametrize("name", NAMES)
def test_articles_fit_and_no_caption_is_long(name):
    """Of all phrasings: "an orange hat", "a unicorn", at most 18 words."""
    for scene in samples(name):
        for caption in FAMILIES[name].captions(scene):
            assert not re.search(r"\ba [aeio]|\ban [^aeio]", caption), caption
            assert len(caption.split()) <= 18, caption


# --------------------------------------------------------------------------------------------- context


def test_the_captions_name_nothing_of_what_the_setting_brings():
    """No moon, star, drop, snow, cloud or lightning in words."""
    words = {
        w for s in samples("context") for c in FAMILIES["context"].captions(s) for w in c.split()
    }
    assert not words & {"moon", "stars", "star", "drops", "snow", "snowy", "cloud", "clouds", "sun"}
    assert not words & {"flakes", "lightning", "bolt", "lamp", "window"}


@pytest.mark.parametrize("subject", FAMILIES["context"].slots["subject"])
def test_each_setting_brings_what_belongs_to_it(subject):
    """Stars at night, drops in the rain, snow in winter, a bolt in a storm: whatever stands below."""
    pictures = {t: draw("context", subject=subject, setting=t) for t in SKIES}
    brought = {
        "sunshine": (255, 222, 70),
        "night": (250, 240, 190),
        "winter": (255, 255, 255),
        "sunset": (255, 230, 120),
        "fog": (226, 230, 232),
        "storm": (255, 232, 60),
    }
    for setting, colour in brought.items():
        seen = {t: shows(picture[:44], colour, 2).sum() for t, picture in pictures.items()}
        assert seen[setting] > 15, (setting, seen)
    wet = pictures["rain"]
    assert ((wet[..., 2] > wet[..., 0] + 80) & (wet[..., 0] < 80)).sum() > 40


@pytest.mark.parametrize("setting", SKIES)
def test_only_the_boat_stands_on_water(setting):
    """The picture's lowest row is of the setting's water or ground."""
    _, ground, water, *_ = SKIES[setting]
    for subject in FAMILIES["context"].slots["subject"]:
        picture = draw("context", 128, subject=subject, setting=setting)
        assert shows(picture[-1:], water if subject == "boat" else ground, 1).mean() > 0.9


def test_windows_are_lit_at_night_and_not_by_day():
    """Except the tree's, which has none."""
    for subject in set(FAMILIES["context"].slots["subject"]) - {"tree"}:
        lit = {t: shows(draw("context", 128, subject=subject, setting=t), LAMP, 2) for t in SKIES}
        assert lit["night"].sum() > 40 and lit["storm"].sum() > 40, subject
        assert lit["sunshine"].sum() == lit["rain"].sum() == lit["winter"].sum() == 0, subject


@pytest.mark.parametrize("setting", SKIES)
def test_no_light_swallows_the_subject(setting):
    """A red and a pale house, car, boat, … can be told apart under every sky."""
    for subject in set(FAMILIES["context"].slots["subject"]) - {"tree"}:
        tones = [draw("context", 64, (0, 0, k), subject=subject, setting=setting) for k in (0, 2)]
        assert np.abs(tones[0] - tones[1]).max(-1).max() > 20, subject


# ------------------------------------------------------------------------------------------- creatures


def test_a_colour_is_stated_where_something_is_worn_and_only_there():
    """And something worn never meets a borrowed part."""
    for scene in samples("creatures"):
        s = scene.slots
        assert ("colour" in s) == (s["worn"] != "nothing")
        assert s["worn"] == "nothing" or s["part"] == "own"
        assert not s["part"].startswith(s["animal"])


@pytest.mark.parametrize("colour", FAMILIES["creatures"].slots["colour"])
def test_what_is_worn_has_its_colour(colour):
    """For each animal and each thing: more of the colour than the bare animal shows."""
    slots = FAMILIES["creatures"].slots
    for animal, worn in itertools.product(slots["animal"], slots["worn"][1:]):
        facts = {"animal": animal, "mood": "calm", "part": "own"}
        dressed = draw("creatures", worn=worn, colour=colour, **facts)
        bare = draw("creatures", worn="nothing", **facts)
        more = shows(dressed, PALETTE[colour]).sum() - shows(bare, PALETTE[colour]).sum()
        assert more > 40, (animal, worn)


@pytest.mark.parametrize("animal", FAMILIES["creatures"].slots["animal"])
def test_a_mood_changes_the_face_and_nothing_else(animal):
    """Body and feet are those of the calm animal."""
    calm = draw("creatures", animal=animal, mood="calm", worn="nothing", part="own")
    for mood in FAMILIES["creatures"].slots["mood"][1:]:
        other = draw("creatures", animal=animal, mood=mood, worn="nothing", part="own")
        assert (calm[:48] != other[:48]).any() and (calm[52:] == other[52:]).all(), mood


@pytest.mark.parametrize("animal", FAMILIES["creatures"].slots["animal"])
def test_eyes_and_brows_alone_tell_the_mood(animal):
    """Above the nose, any two moods differ in ten pixels or more."""
    moods = FAMILIES["creatures"].slots["mood"]
    faces = [draw("creatures", animal=animal, mood=m, worn="nothing", part="own") for m in moods]
    for one, two in itertools.combinations(faces, 2):
        assert (np.abs(one - two)[:35].max(-1) > 60).sum() >= 10


# ----------------------------------------------------------------------------------------- translation


def panels(size: int = 64, layout: tuple[int, ...] = MIDDLE, **slots: str) -> tuple:
    """Upper and lower half of a translation's picture."""
    picture = draw("translation", size, layout, **slots)
    return picture[: size // 2], picture[size // 2 :]


def thing(panel: np.ndarray, size: int) -> np.ndarray:
    """Where a panel differs clearly from its background, below the line that divides the panels."""
    rows = panel[math.ceil(0.01 * size) :]
    return np.abs(rows - rows[-1, 0]).max(-1) > 30


@pytest.mark.parametrize("size", DRAWN_SIZES)
def test_the_upper_half_knows_nothing_of_the_change(size):
    """Exactly the top half of the rows is the same for all changes and new colours, so it can be given;
    the lower half tells them apart."""
    rng = random.Random(0)
    for subject in SUBJECT_WORDS:
        layout = (rng.randrange(3), rng.randint(-6, 6), rng.randint(-2, 2))
        facts = {"subject": subject, "colour": "red", "size": size, "layout": layout}
        changes = [{"change": c} for c in CHANGE_WORDS if c != "recoloured"]
        changes += [{"change": "recoloured", "new_colour": c} for c in ("blue", "green", "yellow")]
        found = [panels(**facts, **change) for change in changes]
        assert all((top == found[0][0]).all() for top, _ in found), subject
        assert len({bottom.tobytes() for _, bottom in found}) == len(changes)


@pytest.mark.parametrize("preset", [p for p in PRESETS.values() if p.dvae.size >= 32], ids=str)
def test_half_a_picture_is_a_whole_number_of_token_rows(preset):
    """So that the upper panel is an image prompt."""
    assert preset.dalle.h % 2 == 0
    assert preset.dvae.size // 2 % (preset.dvae.size // preset.dalle.h) == 0


@pytest.mark.parametrize("size", DRAWN_SIZES)
@pytest.mark.parametrize("subject", SUBJECT_WORDS)
def test_the_lower_thing_is_exactly_the_same(subject, size):
    """Coloured anew in its own colour it would be the upper half again, pixel by pixel."""
    facts = {"subject": subject, "colour": "blue", "change": "recoloured", "new_colour": "blue"}
    line = math.ceil(0.01 * size)
    for layout in ((0, 0, 0), (1, -6, 2), (2, 5, -1)):
        top, bottom = panels(size, layout, **facts)
        assert (top[line:] == bottom[line:]).all()


@pytest.mark.parametrize("subject", SUBJECT_WORDS)
def test_upside_down_is_the_upper_thing_turned_over(subject):
    """Turned back, the lower half is far more like the upper one than as it is."""
    top, bottom = panels(128, subject=subject, colour="purple", change="upside down")
    as_drawn, turned_back = (np.abs(top - each)[4:-4].mean() for each in (bottom, bottom[::-1]))
    assert turned_back < as_drawn / 3


@pytest.mark.parametrize("subject", SUBJECT_WORDS)
@pytest.mark.parametrize("colour", FAMILIES["translation"].slots["colour"])
def test_changes_are_what_their_names_say(subject, colour):
    """A sketch has no colour, night is dark, tiny is small, twice is double, new is new."""
    facts = {"subject": subject, "colour": colour}
    sizes = {}
    for change in ("sketch", "night", "tiny", "twice", "framed"):
        top, bottom = panels(change=change, **facts)
        sizes[change] = thing(bottom, 64).sum() / thing(top, 64).sum()
        hue = bottom.max(-1) - bottom.min(-1)
        assert (hue.max() < 20) == (change == "sketch")
        assert (np.median(bottom) < 90) == (change == "night")
    assert sizes["tiny"] < 0.4 and 1.8 < sizes["twice"] < 2.2
    new = "blue" if colour != "blue" else "red"
    top, bottom = panels(change="recoloured", new_colour=new, **facts)
    assert shows(top, PALETTE[colour]).sum() > 60 and shows(bottom, PALETTE[new]).sum() > 60
    assert not shows(bottom, PALETTE[colour]).any()


def test_what_is_recoloured_gets_another_colour():
    """And only what is recoloured has a new one."""
    for scene in samples("translation"):
        s = scene.slots
        assert ("new colour" in s) == (s["change"] == "recoloured")
        assert s.get("new colour") != s["colour"]


def test_things_stay_inside_their_panels():
    """Nothing but background at the edges of the upper half, wherever the thing stands."""
    for subject, shift, lift in itertools.product(SUBJECT_WORDS, (-6, 6), (-2, 2)):
        facts = {"subject": subject, "colour": "blue", "change": "upside down"}
        top, bottom = panels(64, (0, shift, lift), **facts)
        for panel in (top, bottom[1:]):
            edges = [panel[0], panel[-1], panel[:, 0], panel[:, -1]]
            assert all(shows(edge[None], BACKGROUNDS[0], 1).all() for edge in edges), subject


# ------------------------------------------------------------------------------------------------ time


def test_each_scene_has_the_one_time_that_its_thing_asks_for():
    """Clocks have hours, machines decades, trees seasons."""
    kinds = {"clock": "hour", "tree": "season"}
    for scene in samples("time"):
        given = {"hour", "decade", "season"} & set(scene.slots)
        assert given == {kinds.get(scene.slots["thing"], "decade")}


@pytest.mark.parametrize("size", DRAWN_SIZES)
@pytest.mark.parametrize("hour", HOURS)
def test_the_short_hand_points_at_the_hour(hour, size):
    """The dark pixels' centre of mass lies nearer to the hour than to any other, by 12 degrees of 15."""
    for layout in ((0, 0, 0), (1, -4, 3), (2, 4, -4)):
        picture = draw("time", size, layout, thing="clock", hour=hour, colour="red")
        y, x = np.argwhere(shows(picture, DARK, 60)).mean(0) + 0.5
        across, up = x - size * (0.5 + 0.012 * layout[1]), size * (0.5 + 0.012 * layout[2]) - y
        angle = math.degrees(math.atan2(across, up))
        wrong = (angle - 30 * (HOURS.index(hour) + 1) + 180) % 360 - 180
        assert abs(wrong) < 12 and math.hypot(across, up) > 0.03 * size


@pytest.mark.parametrize("colour", FAMILIES["time"].slots["colour"])
def test_clocks_machines_and_pots_have_their_colour(colour):
    """Told with it they show it, and more of it than when told without."""
    things = [{"thing": "clock", "hour": "two"}]
    things += [{"thing": "tree", "season": each} for each in FAMILIES["time"].slots["season"]]
    things += [
        {"thing": thing, "decade": decade}
        for thing in ("telephone", "car", "music player")
        for decade in FAMILIES["time"].slots["decade"]
    ]
    for facts in things:
        told, untold = draw("time", colour=colour, **facts), draw("time", **facts)
        more = shows(told, PALETTE[colour], 2).sum() - shows(untold, PALETTE[colour], 2).sum()
        assert more > 60, facts


def test_trees_wear_their_season():
    """Leaves of the season's colour; in winter none, and snow."""
    for season, (leaves, _) in CROWNS.items():
        picture = draw("time", thing="tree", season=season, colour="blue")
        assert shows(picture[:36], leaves).sum() > 300
    winter = draw("time", thing="tree", season="winter", colour="blue")
    assert shows(winter, SNOW).sum() > 30
    assert not any(shows(winter, leaves, 20).any() for leaves, _ in CROWNS.values())


@pytest.mark.parametrize("thing", ("telephone", "car", "music player"))
def test_a_decade_changes_the_whole_machine(thing):
    """At 32 pixels, any two decades differ in more than a tenth of the picture."""
    decades = FAMILIES["time"].slots["decade"]
    drawn = [draw("time", 32, thing=thing, decade=each, colour="green") for each in decades]
    for one, two in itertools.combinations(drawn, 2):
        assert (np.abs(one - two).max(-1) > 40).mean() > 0.1


def test_winter_trees_of_two_families_share_no_caption():
    """ "a tree in winter" is a context with falling snow; time says "in deep winter"."""
    tree = Scene("time", {"thing": "tree", "season": "winter"}, MIDDLE)
    other = Scene("context", {"subject": "tree", "setting": "winter"}, MIDDLE)
    assert "a tree in winter" in FAMILIES["context"].captions(other)
    assert not set(FAMILIES["time"].captions(tree)) & set(FAMILIES["context"].captions(other))
