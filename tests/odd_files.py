"""Pictures as people have them: odd formats, odd modes, odd names, and files that are no pictures at all."""

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

RED, BLUE = (200, 30, 40), (20, 60, 210)


def two_colours(width: int = 60, height: int = 40) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    """The bytes of a picture file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def write(path: Path, data: bytes, caption: str | None = None) -> Path:
    """A file, its folders, and its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def turned(orientation: int) -> bytes:
    """`two_colours` as a camera held at some angle stores it: EXIF says how to turn it upright."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = two_colours()
    image = image.transpose(undo[orientation]) if orientation in undo else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def hostile() -> dict[str, bytes]:
    """Files that are called pictures and cannot be read as such."""
    jpeg, png = (
        encoded(Image.effect_noise((64, 64), 50).convert("RGB"), k) for k in ("JPEG", "PNG")
    )
    tiff = encoded(two_colours(), "TIFF", compression="tiff_lzw")
    return {
        "half.jpg": jpeg[: len(jpeg) // 2],
        "half.png": png[: len(png) // 2],
        "turned-over.png": png[:60] + bytes(reversed(png[60:])),
        "half.tif": tiff[: len(tiff) // 2],
        "empty.gif": b"",
        "text.jpg": b"this is a letter to my aunt",
        "page.webp": b"<html><body>404 Not Found</body></html>",
        "program.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "bomb.png": bomb(),
        "phone.HEIC": b"\0\0\0\x18ftypheic" + bytes(40),
        "zeros.bmp": bytes(500),
    }


GOOD = 24


def odd_folder(root: Path) -> Path:
    """A folder with ``GOOD`` pictures that can be used and with much that cannot."""
    kinds = [
        ("JPG", "JPEG"),
        ("png", "PNG"),
        ("WebP", "WEBP"),
        ("gif", "GIF"),
        ("TIF", "TIFF"),
        ("bmp", "BMP"),
    ]
    for k in range(GOOD):
        suffix, kind = kinds[k % len(kinds)]
        colour = tuple(int(c) for c in np.random.default_rng(k).integers(0, 256, 3))
        image = Image.new("RGB", (40 + k, 60), colour)
        image.paste(BLUE, (5, 5, 20, 20 + k))
        image = image.convert("L") if k % 7 == 3 else image
        write(
            root / f"{k % 3}/deep/same{k // 3}.{suffix}",
            encoded(image, kind),
            f"a picture of thing {k}",
        )
    for name, data in hostile().items():
        write(root / "bad" / name, data, "nobody knows")
    write(root / "no caption.png", encoded(two_colours(), "PNG"))
    write(root / "notes.pdf", b"%PDF-1.4")
    write(root / ".thumbnails/0.png", encoded(two_colours(), "PNG"), "hidden")
    return root


def shard(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> Path:
    """A tar file of (key, suffix → bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in samples:
            for suffix, data in parts.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def img2dataset(folder: Path, shards: int, each: int, failed: int = 0) -> Path:
    """Shards with the names and the triples that img2dataset writes; the last ``failed`` of each shard lack
    the picture, as those that could not be downloaded do."""
    for s in range(shards):
        samples = []
        for k in range(each):
            number = s * each + k
            colour = (number % 256, number // 256, 99)
            facts = {"caption": f"thing {number}", "status": "success", "original_width": 80,
                     "original_height": 60, "width": 48, "height": 36}  # fmt: skip
            parts = {"jpg": encoded(Image.new("RGB", (48, 36), colour), "JPEG", quality=95)}
            if k >= each - failed:
                parts = {}
                facts |= {"status": "failed_to_download"}
            parts |= {"txt": f"the caption of thing {number}".encode()}
            parts |= {"json": json.dumps(facts).encode()}
            samples.append((f"{s:05d}{k:04d}", parts))
        shard(folder / f"{s:05d}.tar", samples)
        (folder / f"{s:05d}_stats.json").write_text("{}")
    return folder
