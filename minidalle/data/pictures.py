"""Any picture file → upright RGB → a square, plain or augmented as in the paper.  (Chapter 14)

Paper: listings 1 and 2 (appendices A and C). Ours: pictures smaller than the wanted size are enlarged first,
and without augmentation the middle square is taken. Left out: colour profiles.
"""

import io
import random
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageOps

# What Pillow may open. A list of ours, because its own has formats that start other programs (EPS).
FORMATS = "AVIF BMP DIB GIF ICO JPEG JPEG2000 PCX PNG PPM QOI SGI TGA TIFF WEBP".split()
# The last ones are photographs that Pillow cannot open: they are to be listed, not overlooked.
SUFFIXES = frozenset(
    ".apng .avif .bmp .dib .gif .ico .j2c .j2k .jfif .jp2 .jpe .jpeg .jpg .pbm .pcx .pgm .png .pnm .ppm .qoi "
    ".sgi .tga .tif .tiff .webp .cr2 .dng .heic .heif .nef".split()
)
WHITE = (255, 255, 255, 255)

Crop = Callable[[Image.Image, int], np.ndarray]


def open_picture(data: bytes, size: int) -> Image.Image:
    """The first frame of a picture file as RGB, upright, on white where it is transparent.

    size: pixels on a side that will be cut from it; a JPEG of far more is decoded at an eighth, a quarter or
    half of its own, at least twice ``size``. Raises whatever Pillow does for what it cannot read.
    """
    image = Image.open(io.BytesIO(data), formats=formats())
    image.draft(None, (2 * size, 2 * size))
    return on_white(eight_bit(ImageOps.exif_transpose(image)))


@cache
def formats() -> list[str]:
    """Those of ``FORMATS`` that this version of Pillow knows; it stumbles over the name of any other."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def eight_bit(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 or 32 bit, which Pillow would clip at 255, scaled to 8; others as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    top = next((top for top in (1, 255, 65535) if values.max() <= top), values.max())
    if image.mode != "F":  # integers: 0 … 255 or, as a rule, 0 … 65535
        top = 65535 if image.mode.startswith("I;16") else max(top, 255)
    return Image.fromarray((values.clip(0) * 255 / top).round().astype(np.uint8))


def on_white(image: Image.Image) -> Image.Image:
    """RGB, where transparency shows white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image).convert("RGB")


def resized(image: Image.Image, box: tuple[int, int, int, int], side: int) -> np.ndarray:
    """The square ``box`` of a picture, averaged down (as the paper does) or enlarged to ``side`` pixels."""
    shrinks = box[2] - box[0] >= side
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.array(image.resize((side, side), how, box))


def square(left: int, top: int, side: int) -> tuple[int, int, int, int]:
    """A square as Pillow's box."""
    return left, top, left + side, top + side


def middle(image: Image.Image, size: int) -> np.ndarray:
    """The largest square in the middle, uint8 (size, size, 3). Nothing random; ours, for examinations."""
    side = min(image.size)
    return resized(image, square((image.width - side) // 2, (image.height - side) // 2, side), size)


def augment_dvae(image: Image.Image, size: int, rng: random.Random) -> np.ndarray:
    """Stage 1: a random full square, at 9/8 to 12/8 of the size, a random crop of it, mirrored or not.

    Returns uint8 (size, size, 3). Paper: listing 1. Chapter 14.
    """
    side = min(image.size)
    box = square(rng.randint(0, image.width - side), rng.randint(0, image.height - side), side)
    least, most = min(side, round(9 / 8 * size)), min(side, round(12 / 8 * size))
    picture = random_crop(resized(image, box, max(size, rng.randint(least, most))), size, rng)
    return np.ascontiguousarray(picture[:, ::-1]) if rng.random() < 0.5 else picture


def augment_dalle(image: Image.Image, size: int, rng: random.Random) -> np.ndarray:
    """Stage 2: a full square near the middle, at 1 to 9/8 of the size, a random crop of it, never mirrored:
    there may be writing in the picture.

    Returns uint8 (size, size, 3). Paper: listing 2. Chapter 14.
    """
    side = min(image.size)
    left, top = (near_middle(length - side, rng) for length in image.size)
    most = max(size, min(side, round(9 / 8 * size)))
    return random_crop(resized(image, square(left, top, side), rng.randint(size, most)), size, rng)


def near_middle(room: int, rng: random.Random) -> int:
    """An offset between 3/8 and 5/8 of the room that there is."""
    return rng.randrange(3 * room // 8, max(3 * room // 8 + 1, 5 * room // 8))


def random_crop(picture: np.ndarray, size: int, rng: random.Random) -> np.ndarray:
    """A square of ``size`` pixels from anywhere in a larger one."""
    top, left = (rng.randint(0, picture.shape[axis] - size) for axis in (0, 1))
    return np.ascontiguousarray(picture[top : top + size, left : left + size])


AUGMENTATIONS = {1: augment_dvae, 2: augment_dalle}
