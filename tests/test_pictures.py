"""Any picture file becomes an upright RGB square; both augmentations do what the paper's listings do."""

import io
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_files import BLUE, RED, encoded, hostile, turned, two_colours
from PIL import EpsImagePlugin, Image, UnidentifiedImageError

from minidalle.data.filters import ASPECT, BOILERPLATE, FOREIGN, SHORT, aspect_fault, caption_fault
from minidalle.data.pictures import (
    SUFFIXES,
    augment_dalle,
    augment_dvae,
    middle,
    near_middle,
    open_picture,
)

# --------------------------------------------------------------------------------------------- reading


def sides(data: bytes, size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Mean colours of the left and of the right part of a picture file, read as a source reads it."""
    picture = middle(open_picture(data, size), size).astype(float)
    assert picture.shape == (size, size, 3)
    return picture[:, : size // 4].mean((0, 1)), picture[:, -size // 4 :].mean((0, 1))


def shows(data: bytes, left: tuple, right: tuple, within: float) -> bool:
    """Whether the two sides have these colours."""
    found = sides(data)
    return all(np.abs(f - c).max() <= within for f, c in zip(found, (left, right), strict=True))


KINDS = {
    "AVIF": 12, "BMP": 1, "DIB": 1, "GIF": 1, "ICO": 3, "JPEG": 8, "JPEG2000": 12, "MPO": 8, "PCX": 1,
    "PNG": 1, "PPM": 1, "QOI": 1, "SGI": 1, "TGA": 1, "TIFF": 1, "WEBP": 15,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_common_format_is_read(kind):
    """The two colours come out on their sides; lossy formats may be off by a little."""
    image = two_colours().resize((48, 48)) if kind == "ICO" else two_colours()
    settings = {"sizes": [(48, 48)]} if kind == "ICO" else {}
    assert shows(encoded(image, kind, **settings), RED, BLUE, KINDS[kind])


def test_every_suffix_that_pillow_knows_for_these_formats_is_looked_for():
    """Whatever Pillow writes in one of our formats has its usual suffixes in the list."""
    Image.init()
    usual = {suffix for suffix, kind in Image.registered_extensions().items() if kind in KINDS}
    rare = {
        ".avifs",
        ".bw",
        ".icb",
        ".jpc",
        ".jpf",
        ".jpx",
        ".mpo",
        ".pfm",
        ".rgb",
        ".rgba",
        ".vda",
        ".vst",
    }
    assert usual - rare <= SUFFIXES


def palette_with_transparency() -> Image.Image:
    image = two_colours().convert("P", palette=Image.Palette.ADAPTIVE, colors=2)
    image.info["transparency"] = int(np.asarray(image)[0, -1])
    return image


def half_transparent(mode: str) -> Image.Image:
    """Opaque on the left, invisible on the right."""
    image = two_colours().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (image.width // 2, 0, image.width, image.height))
    image.putalpha(alpha)
    return image


def grey(dtype: str, left: float, right: float) -> Image.Image:
    values = np.full((40, 60), left, dtype)
    values[:, 30:] = right
    return Image.fromarray(values)


WHITE, DARK, LIGHT = (255,) * 3, (51,) * 3, (204,) * 3
L_RED, L_BLUE = ((two_colours().convert("L").getpixel((x, 0)),) * 3 for x in (0, 59))
MODES = {
    "grey": (two_colours().convert("L"), "PNG", L_RED, L_BLUE),
    "grey JPEG": (two_colours().convert("L"), "JPEG", L_RED, L_BLUE),
    "one bit": (grey("u1", 0, 255).convert("1"), "PNG", (0,) * 3, WHITE),
    "palette": (two_colours().convert("P", palette=Image.Palette.ADAPTIVE), "PNG", RED, BLUE),
    "transparent colour of a palette": (palette_with_transparency(), "PNG", RED, WHITE),
    "transparent GIF": (palette_with_transparency(), "GIF", RED, WHITE),
    "alpha": (half_transparent("RGB"), "PNG", RED, WHITE),
    "alpha WebP": (half_transparent("RGB"), "WEBP", RED, WHITE),
    "grey and alpha": (half_transparent("L"), "PNG", L_RED, WHITE),
    "CMYK JPEG": (two_colours().convert("CMYK"), "JPEG", RED, BLUE),
    "CMYK TIFF": (two_colours().convert("CMYK"), "TIFF", RED, BLUE),
    "YCbCr TIFF": (two_colours().convert("YCbCr"), "TIFF", RED, BLUE),
    "16 bit PNG": (grey("<u2", 51 * 257, 204 * 257), "PNG", DARK, LIGHT),
    "16 bit TIFF": (grey("<u2", 51 * 257, 204 * 257), "TIFF", DARK, LIGHT),
    "dark 16 bit": (grey("<u2", 0, 2 * 257), "PNG", (0,) * 3, (2,) * 3),
    "32 bit integers up to 255": (grey("<i4", 51, 204), "TIFF", DARK, LIGHT),
    "32 bit integers up to 65535": (grey("<i4", 51 * 257, 204 * 257), "TIFF", DARK, LIGHT),
    "floats up to 1": (grey("<f4", 0.2, 0.8), "TIFF", DARK, LIGHT),
    "floats up to 255": (grey("<f4", 51, 204), "TIFF", DARK, LIGHT),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_rgb(name):
    """Grey, palette, alpha on white, CMYK, 16 bit: the colours that a person sees."""
    image, kind, left, right = MODES[name]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    assert shows(encoded(image, kind, **lossless), left, right, 10 if kind == "JPEG" else 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_stand_upright(orientation):
    """All eight ways in which a camera can have been held."""
    assert open_picture(turned(orientation), 16).size == (60, 40)
    assert shows(turned(orientation), RED, BLUE, 10)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind):
    """Red and blue first, green afterwards."""
    green, white = (Image.new("RGB", (60, 40), colour) for colour in ((0, 255, 0), WHITE))
    data = encoded(two_colours(), kind, save_all=True, append_images=[green, white])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert shows(data, RED, BLUE, 15)


def test_large_jpegs_are_decoded_small():
    """At least twice the wanted size is left, and the picture is the same but for a little."""
    for width, height in ((1200, 800), (300, 200)):
        data = encoded(two_colours(width, height), "JPEG", quality=95)
        assert 32 <= min(open_picture(data, 16).size) < 128
        assert shows(data, RED, BLUE, 8)


@pytest.mark.parametrize("name", hostile())
def test_what_is_no_picture_raises(name):
    """Every one of the hostile files; that no program is started for EPS is tested on its own."""
    with pytest.raises(Exception):  # noqa: B017 - Pillow raises almost anything
        open_picture(hostile()[name], 16)


def test_no_picture_starts_a_program(monkeypatch):
    """Pillow would run Ghostscript for an EPS file, whatever its name; ours never gets that far."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: started.append(a))
    with pytest.raises(UnidentifiedImageError):
        open_picture(hostile()["program.png"], 16)
    assert not started


# ---------------------------------------------------------------------------------- crops, augmentations


def map_of_places(width: int, height: int) -> Image.Image:
    """A picture in which red tells the place from left to right and green from top to bottom, in 0 … 200."""
    x, y = np.meshgrid(np.linspace(0, 200, width), np.linspace(0, 200, height))
    return Image.fromarray(np.stack([x, y, 0 * x], -1).round().astype(np.uint8))


def window(picture: np.ndarray, width: int, height: int) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of what a cut of `map_of_places` shows, in its pixels."""
    x, y = picture[..., 0].mean(0) * (width - 1) / 200, picture[..., 1].mean(1) * (height - 1) / 200
    return x[0], x[-1], y[0], y[-1]


shapes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@given(shapes, st.integers(1, 40), st.integers(0, 9))
def test_crops_have_the_wanted_size_whatever_the_picture(shape, size, seed):
    """Smaller and larger pictures, of any shape, down to one pixel; uint8 and contiguous."""
    image = Image.new("RGB", shape, RED)
    for picture in (
        middle(image, size),
        augment_dvae(image, size, random.Random(seed)),
        augment_dalle(image, size, random.Random(seed)),
    ):
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        assert np.abs(picture.astype(int) - RED).max() <= 1 and picture.flags.c_contiguous


def test_without_augmentation_the_middle_square_is_taken():
    """As much to the left as to the right, all of the height."""
    left, right, top, bottom = window(middle(map_of_places(300, 100), 20), 300, 100)
    assert abs((left + right) / 2 - 149.5) < 2 and abs(right - left - 95) < 4
    assert top < 5 and bottom > 94


def windows(augment, width, height, size, n=400):
    image = map_of_places(width, height)
    return np.array(
        [window(augment(image, size, random.Random(k)), width, height) for k in range(n)]
    )


def test_stage_one_crops_anywhere_and_mirrors_half():
    """Listing 1: any full square, 8/12 to 8/9 of its side is left, half of them mirrored."""
    left, right, top, bottom = windows(augment_dvae, 300, 100, 32).T
    mirrored = left > right
    assert 0.4 < mirrored.mean() < 0.6 and (top < bottom).all()
    side = np.abs(right - left) * 32 / 31  # from the middle of the first to that of the last pixel
    assert side.min() > 100 * 8 / 12 - 4 and side.max() < 100 * 8 / 9 + 4
    assert side.min() < 70 and side.max() > 85
    assert np.minimum(left, right).min() < 15 and np.maximum(left, right).max() > 285
    assert np.abs(np.abs(right - left) - (bottom - top)).max() < 5, "not distorted"


def test_stage_two_stays_near_the_middle_and_never_mirrors():
    """Listing 2: a square at 3/8 to 5/8 of the room, 8/9 to all of it is left, no mirror images."""
    left, right, top, bottom = windows(augment_dalle, 300, 100, 32).T
    assert (left < right).all() and (top < bottom).all()
    side = (right - left) * 32 / 31
    assert side.min() > 100 * 8 / 9 - 4 and side.min() < 93 and side.max() > 97
    assert left.min() >= 300 * 0 + 75 - 2 and right.max() <= 125 + 100 + 2, (
        "of the 200 that there are"
    )
    assert left.min() < 85 and right.max() > 213


def test_the_room_around_a_square_is_cut_as_in_the_listing():
    """tf.random.uniform leaves its end out: 3·room/8 … 5·room/8 − 1, or 3·room/8 where there is no other."""
    for room in range(40):
        start, end = 3 * room // 8, max(3 * room // 8 + 1, 5 * room // 8)
        found = {near_middle(room, random.Random(k)) for k in range(300)}
        assert found == set(range(start, end))


def test_pictures_between_the_sizes_are_never_enlarged_first():
    """One that is a little larger than wanted is cut at its own resolution: its pixels are copied."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (33, 33, 3), dtype=np.uint8)
    cut = augment_dvae(Image.fromarray(values), 32, random.Random(1))
    corners = [values[y : y + 32, x : x + 32] for y in (0, 1) for x in (0, 1)]
    assert any((cut == c).all() or (cut == c[:, ::-1]).all() for c in corners)


@pytest.mark.parametrize("augment", [augment_dvae, augment_dalle])
def test_augmentation_is_a_pure_function_of_its_generator(augment):
    """Same numbers, same picture; and they do change it."""
    image = map_of_places(90, 60)
    one, two, other = (augment(image, 24, random.Random(k)) for k in (3, 3, 4))
    assert (one == two).all() and (one != other).any()


# ------------------------------------------------------------------------------------------- filters

CAPTIONS = {
    None: [
        "a small red circle above a blue square", "Two dogs playing in the snow", "red bicycle",
        "a photo of a cat on a sofa", "Portrait of a woman, 1925, oil on canvas", "a café in Málaga at night",
        "the number 42 painted on a door", "Vintage stock certificate of a railway company",
        "a sign that says CLICK HERE TO WIN on a shop window",
        "An old man with a long beard, Rajasthan, India",
    ],
    SHORT: ["cat", "Berlin", "1 dog", "", " "],
    FOREIGN: [
        "eine Katze auf dem Sofa", "ein roter Kreis und zwei blaue Quadrate", "un chat noir dans le jardin",
        "el perro y los gatos de la casa", "una casa con una puerta roja",
        "il gatto nel giardino della nonna",
        "um gato preto na janela", "een kat op het dak", "två hundar och en katt på soffan",
        "кошка на диване", "ソファの上の猫", "沙发上的猫", "قطة على الأريكة", "고양이", "γάτα στον καναπέ",
    ],
    BOILERPLATE: [
        "Photographed on 12 May 2011", "photo taken on 2011-05-12", "IMG_2043.JPG", "DSC00012",
        "https://example.com/pictures/12.png", "Stock photo", "royalty-free vector", "Image 3 of 12",
        "No description available", "untitled", "All rights reserved © 2014", "12.5.2011 14:30", "2043",
        "!!!", "Click to enlarge", "picture taken by Nikon, May 3, 2009",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "caption"),
    [(fault, caption) for fault, every in CAPTIONS.items() for caption in every],
)
def test_captions_are_judged_as_a_person_would(fault, caption):
    """Good ones pass; very short, foreign and boilerplate ones are told apart."""
    assert caption_fault(caption) == fault


def test_the_aspect_ratio_is_the_papers():
    """[1/2, 2], its ends included."""
    for size in ((100, 200), (200, 100), (1, 1), (3, 2)):
        assert aspect_fault(*size) is None
    for size in ((100, 201), (201, 100), (1, 50)):
        assert aspect_fault(*size) == ASPECT


def test_reading_pictures_loads_no_heavy_library():
    """The world, a folder and emoji need neither `datasets` nor `webdataset`."""
    code = (
        "import sys; from minidalle.data import World; import minidalle.data.folder, minidalle.data.emoji;"
        "print({'datasets', 'webdataset', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "set()\n", answer.stderr
