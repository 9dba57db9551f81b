"""Pictures per second of processor time of every source of data, read as training reads it.

    python benchmarks/data_sources.py [--size 128] [--seconds 5] [--json FILE]

Folder, shards and hub read the same 200 photographs (640×480 noise over colours, JPEG at quality 90), which
are made for the occasion and stay in the file system's memory: no disk or network is measured. "plain" is
the middle square, "stage 1" and "stage 2" are the paper's augmentations, "start" is the time until the source
is there, with every file of a folder or data set looked at once. Processor time, because then other programs
do not disturb the figures; one worker of a DataLoader on a core of its own gives about as many a second.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from minidalle.data import Source, source, walk

PHOTOGRAPHS = 200
STAGES = {"plain": None, "stage 1": 1, "stage 2": 2}


def photograph(seed: int) -> bytes:
    """A JPEG of 640×480 pixels that is as hard to decode as one from a camera."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + rng.normal(0, 8, smooth.shape)
    buffer = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_folder(root: Path) -> str:
    """The photographs as files with captions beside them."""
    for k in range(PHOTOGRAPHS):
        (root / f"{k:05d}.jpg").write_bytes(photograph(k))
        (root / f"{k:05d}.txt").write_text(f"a photograph of thing {k}")
    return f"folder:{root}"


def make_shards(root: Path) -> str:
    """The same in two tar files."""
    import webdataset

    with webdataset.ShardWriter(f"{root}/%05d.tar", maxcount=PHOTOGRAPHS // 2, verbose=0) as writer:
        for k in range(PHOTOGRAPHS):
            caption = f"a photograph of thing {k}"
            writer.write({"__key__": f"{k:09d}", "jpg": photograph(k), "txt": caption})
    return f"webdataset:{root}/*.tar"


def make_hub(root: Path) -> str:
    """The same as a data set on disk."""
    import datasets

    pictures = [{"bytes": photograph(k), "path": None} for k in range(PHOTOGRAPHS)]
    captions = [f"a photograph of thing {k}" for k in range(PHOTOGRAPHS)]
    features = datasets.Features(image=datasets.Image(), text=datasets.Value("string"))
    rows = datasets.Dataset.from_dict({"image": pictures, "text": captions}, features=features)
    rows.save_to_disk(root / "set")
    return f"hub:{root}/set"


MAKERS: dict[str, Callable[[Path], str]] = {
    "world": lambda root: "world",
    "emoji": lambda root: "emoji",
    "folder": make_folder,
    "webdataset": make_shards,
    "hub": make_hub,
}


def pictures_per_second(found: Source, stage: int | None, seconds: float) -> float:
    """How fast an endless source gives its examples, after a warm-up of a twentieth of the time."""
    examples = walk(found.training(stage, seed=0))
    warm = time.process_time() + seconds / 20
    while time.process_time() < warm:
        next(examples)
    began, n = time.process_time(), 0
    while time.process_time() < began + seconds:
        n += len(list(islice(examples, 16)))
    return n / (time.process_time() - began)


def measure(size: int, seconds: float) -> list[dict[str, object]]:
    """A row for each source: seconds to start, pictures/s plain and for both stages.

    A source that is not installed here has the reason instead.
    """
    rows = []
    for name, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as root:
            try:
                data = make(Path(root))
                began = time.process_time()
                found = source(data, size)
                start = time.process_time() - began
                speeds = {s: pictures_per_second(found, k, seconds) for s, k in STAGES.items()}
                rows.append({"source": name, "size": size, "start": start, **speeds})
            except (ImportError, OSError, ValueError) as error:
                rows.append({"source": name, "size": size, "missing": str(error)})
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = measure(options.size, options.seconds)
    print(f"{'pictures/s':<12}" + "".join(f"{column:>12}" for column in [*STAGES, "start, s"]))
    for row in rows:
        cells = [f"{row[s]:12.0f}" for s in STAGES if s in row] + [f"{row.get('start', 0):12.2f}"]
        print(f"{row['source']:<12}" + (row.get("missing") or "".join(cells)))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
