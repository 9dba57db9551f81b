"""The state of a training run on disk, such that going on from it changes nothing.  (Chapter 13)

One file a checkpoint, written beside its final name and moved there when it is complete: tensors as
safetensors, everything else as JSON in its header. Nothing is pickled. A fingerprint over both tells a
damaged file from a good one.

    checkpoints/dvae-00000500.safetensors
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from .files import fingerprint, text_fingerprint, write_atomically

KEPT = 3  # checkpoints of a stage


class Checkpoint(NamedTuple):
    """After ``step`` steps: tensors by name, and facts that are JSON."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict


def file_name(stage: str, step: int) -> str:
    """ "DALL·E", 500 → "dalle-00000500.safetensors"."""
    return f"{slug(stage)}-{step:08d}.safetensors"


def slug(stage: str) -> str:
    """A stage's name as part of a file's: "DALL·E" → "dalle"."""
    return re.sub(r"[^a-z0-9]", "", stage.lower())


def save(
    folder: Path, stage: str, step: int, tensors: Mapping[str, Tensor], facts: Mapping
) -> Path:
    """Write a checkpoint and then remove all of its stage but this one and the last before it, `KEPT` in all.

    Later ones go, too: a run that comes to this step has passed over them as damaged. Raises OSError, for
    example on a full disk; the earlier ones are then as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(facts, ensure_ascii=False)
    metadata = {"step": str(step), "facts": text, "fingerprint": seal(step, tensors, text)}
    data = to_bytes(tensors, metadata)
    path = folder / file_name(stage, step)
    write_atomically(path, lambda file: file.write(data))
    paths = found(folder, stage)
    end = paths.index(path) + 1
    for other in (*paths[: max(0, end - KEPT)], *paths[end:]):
        other.unlink()
    return path


def seal(step: int, tensors: Mapping[str, Tensor], text: str) -> str:
    """One fingerprint of everything in a checkpoint."""
    return text_fingerprint(f"{step} {fingerprint(tensors)} {text}")


def found(folder: Path, stage: str) -> list[Path]:
    """The checkpoints of a stage, oldest first, good or not."""
    return sorted(folder.glob(f"{slug(stage)}-{'[0-9]' * 8}.safetensors"))


def read(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises ValueError that names the file if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        step, text, mark = int(metadata["step"]), metadata["facts"], metadata["fingerprint"]
        if seal(step, tensors, text) != mark:
            raise ValueError(f"its content has not the fingerprint {mark}")
        return Checkpoint(step, tensors, json.loads(text))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def newest(folder: Path, stage: str, warn: Callable[[str], object]) -> Checkpoint | None:
    """The newest good checkpoint of a stage, or None; each damaged one that is passed over is named."""
    for path in reversed(found(folder, stage)):
        try:
            return read(path)
        except ValueError as error:
            warn(f"warning: {error}; it is passed over")
    return None


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process was writing: hidden files that never got their final name."""
    for path in folder.rglob(".*"):
        if path.is_file() and re.fullmatch(
            r"\..+\.[a-z0-9_]{8}", path.name
        ):  # as mkstemp names them
            path.unlink()
