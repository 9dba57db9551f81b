"""What the pictures of solids, fruit, flags and materials show, read from their pixels."""

import itertools

import numpy as np
import pytest

from minidalle.world import FAMILIES, HELD_OUT_PAIRS, Scene
from minidalle.world.canvas import PALETTE, mix
from minidalle.world.combination import MATERIALS, THINGS
from minidalle.world.fruits import FRUITS
from minidalle.world.geography import ADJECTIVES, CLOTH, COUNTRIES, FLAGS, PLACES, SCENES
from minidalle.world.perspective import SOLIDS, VIEWS, seen

MINE = ("combination", "geography", "perspective", "structure")
MIDDLE = (0, 0, 0)


def draw(family: str, size: int = 64, layout: tuple[int, ...] = MIDDLE, **slots: str) -> np.ndarray:
    """One picture of a family whose slots' names are keywords."""
    return FAMILIES[family].draw(Scene(family, slots, layout), size)


def centre(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Mean (row, column) of the pixels of exactly one colour; fails where there is none."""
    at = np.argwhere((picture == colour).all(-1))
    assert len(at), colour
    return at.mean(0)


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("size", [32, 64])
def test_any_two_values_of_a_slot_look_different(name, size):
    """Everything else being equal, a twentieth of a thing's pixels differ clearly, not a detail."""
    family = FAMILIES[name]
    for slot, values in family.slots.items():
        for other in family.slots:
            if other == slot:
                continue
            for fixed in family.slots[other]:
                slots = {each: choices[0] for each, choices in family.slots.items()}
                drawn = []
                for value in values:
                    scene = Scene(name, {**slots, other: fixed, slot: value}, MIDDLE)
                    drawn.append(family.draw(scene, size).astype(int))
                for a, b in itertools.combinations(range(len(values)), 2):
                    share = (np.abs(drawn[a] - drawn[b]).max(-1) > 40).mean()
                    assert share > 0.015, (other, fixed, values[a], values[b], share)


# ------------------------------------------------------------------------------------- perspective


@pytest.mark.parametrize(("view", "axis", "sign"), [
    ("left", 1, -1), ("right", 1, 1), ("above", 0, -1), ("below", 0, 1),
])  # fmt: skip
def test_the_side_that_one_looks_from_is_on_that_side(view, axis, sign):
    """A cube's front keeps its colour; the other face that is seen lies left, right, above or below."""
    blue = PALETTE["blue"]
    picture = draw("perspective", view=view, style="solid", colour="blue", solid="cube")
    thing = np.argwhere((picture != picture[0, 0]).any(-1)).mean(0)
    assert sign * (thing - centre(picture, blue))[axis] > 3


def test_tops_are_light_and_bottoms_dark():
    """Light falls from above, in every scene."""
    above = draw("perspective", view="above", style="solid", colour="green", solid="cube")
    below = draw("perspective", view="below", style="solid", colour="green", solid="cube")
    assert centre(above, mix(PALETTE["green"], (255, 255, 255), 0.5)) is not None
    assert centre(below, mix(PALETTE["green"], (0, 0, 0), 0.4)) is not None


@pytest.mark.parametrize("solid", SOLIDS)
def test_solids_are_closed_and_stay_inside_the_frame(solid):
    """From every side something is seen and something hidden; thick edges fit in at every layout."""
    for view in VIEWS:
        faces = seen(solid, view)
        assert {face.visible for face in faces} == {True, False}
        reach = max(abs(c) for face in faces for point in face.points for c in point)
        assert reach + 0.02 + 0.008 * 4 <= 0.5


def test_solids_that_look_like_flat_shapes_are_held_out_with_them():
    """The front of a cube is a square, of a pyramid a triangle, of a cylinder a circle."""
    flat = {"cube": "square", "pyramid": "triangle", "wedge": "triangle", "cylinder": "circle"}
    for colour, shape in HELD_OUT_PAIRS:
        for solid, front in flat.items():
            if shape == front:
                assert (colour, solid) in FAMILIES["perspective"].held_out


# -------------------------------------------------------------------------------------- geography


@pytest.mark.parametrize(("country", "places", "colours"), [
    ("france", [(1, 0.5), (1, 1.5), (1, 2.5)], "navy white red"),
    ("germany", [(0.3, 1.5), (1, 1.5), (1.7, 1.5)], "black red yellow"),
    ("italy", [(1, 0.5), (1, 1.5), (1, 2.5)], "green white red"),
    ("belgium", [(1, 0.5), (1, 1.5), (1, 2.5)], "black yellow red"),
    ("nigeria", [(1, 0.5), (1, 1.5), (1, 2.5)], "green white green"),
    ("austria", [(0.3, 1.5), (1, 1.5), (1.7, 1.5)], "red white red"),
    ("estonia", [(0.3, 1.5), (1, 1.5), (1.7, 1.5)], "sky black white"),
    ("poland", [(0.5, 1.5), (1.5, 1.5)], "white red"),
    ("ukraine", [(0.5, 1.5), (1.5, 1.5)], "blue yellow"),
    ("colombia", [(0.5, 1.5), (1.25, 1.5), (1.75, 1.5)], "yellow blue red"),
    ("thailand", [(0.15, 1.5), (0.5, 1.5), (1, 1.5), (1.5, 1.5), (1.85, 1.5)], "red white navy white red"),
    ("czechia", [(1, 0.4), (0.4, 2), (1.6, 2)], "blue white red"),
    ("japan", [(1, 1.5), (0.2, 0.3)], "red white"),
    ("bangladesh", [(1, 1.4), (0.2, 0.3)], "red green"),
    ("palau", [(1, 1.4), (0.2, 0.3)], "yellow sky"),
    ("somalia", [(1, 1.5), (0.2, 0.3)], "white sky"),
    ("vietnam", [(1, 1.5), (0.2, 0.3)], "yellow red"),
    ("turkey", [(1, 0.65), (1, 1.3), (1, 1.85), (0.2, 0.3)], "white red white red"),
    ("canada", [(1, 0.3), (1, 1.5), (0.2, 1.1), (1, 2.7)], "red red white red"),
    ("jamaica", [(1, 0.3), (1, 2.7), (0.2, 1.5), (1.8, 1.5), (1, 1.5)], "black black green green yellow"),
    ("switzerland", [(1, 1.5), (0.5, 1.5), (1, 2), (0.5, 1), (1, 0.5)], "white white white red red"),
    ("denmark", [(1, 2.5), (0.3, 1.1), (0.3, 0.5), (0.3, 2)], "white white red red"),
    ("finland", [(1, 2.5), (0.3, 1.1), (0.3, 0.5), (0.3, 2)], "blue blue white white"),
    ("sweden", [(1, 2.5), (0.3, 1.1), (0.3, 0.5), (0.3, 2)], "yellow yellow blue blue"),
])  # fmt: skip
def test_flags_have_their_colours_in_their_places(country, places, colours):
    """Read off the wall at (row, column) of a box 2 high and 3 wide, as the flag is described in words."""
    picture = draw("geography", 128, country=country, place="wall")
    left, top, width = 0.16, 0.28, 0.68
    for (row, column), colour in zip(places, colours.split(), strict=True):
        y, x = int(128 * (top + width / 3 * row)), int(128 * (left + width / 3 * column))
        assert tuple(picture[y, x]) == CLOTH[colour], (row, column)


def test_every_country_is_complete():
    """A flag, an adjective, one place where it is held out, and all flags differ."""
    assert set(COUNTRIES) == set(FLAGS) == set(ADJECTIVES) and set(PLACES) == set(SCENES)
    assert [country for country, _ in FAMILIES["geography"].held_out] == list(COUNTRIES)
    assert len({repr(flag) for flag in FLAGS.values()}) == len(FLAGS)


# ------------------------------------------------------------------------- structure, combination


@pytest.mark.parametrize(("view", "words", "spot"), [
    ("outside", "the outside of a watermelon on a red table", (60, 5)),
    ("close-up", "a close-up of watermelon skin under a red magnifying glass", (6, 30)),
])  # fmt: skip
def test_the_colour_is_that_of_the_table_or_of_the_glass(view, words, spot):
    """And the caption says so."""
    slots = {"view": view, "fruit": "watermelon", "colour": "red"}
    scene = Scene("structure", slots, MIDDLE)
    assert words in FAMILIES["structure"].captions(scene)
    red, green, blue = (int(c) for c in FAMILIES["structure"].draw(scene, 64)[spot])
    assert red > green + 100 and red > blue + 100


def test_views_of_fruit_are_never_held_out():
    """Only training can tell what is inside of a kiwi."""
    shown = {
        (scene.slots["fruit"], scene.slots["view"])
        for scene in (FAMILIES["structure"].example(i)[0] for i in range(1500))
    }
    assert shown == set(itertools.product(FRUITS, FAMILIES["structure"].slots["view"]))


@pytest.mark.parametrize("material", MATERIALS)
def test_things_are_cut_out_of_their_material(material):
    """Where two things overlap away from their edges, they show the same bytes."""
    one = draw("combination", thing="bottle", material=material)
    two = draw("combination", thing="mug", material=material)
    assert (one[36:46, 26:36] == two[36:46, 26:36]).all()


def test_the_outline_of_a_thing_is_its_own():
    """No two things cover nearly the same pixels."""
    masks = []
    for thing in THINGS:
        picture = draw("combination", thing=thing, material="grass").astype(int)
        masks.append(np.abs(picture - picture[0, 0]).max(-1) > 40)
    for a, b in itertools.combinations(masks, 2):
        assert (a & b).sum() / (a | b).sum() < 0.85
