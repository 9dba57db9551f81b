"""Files that are there in full or not at all, fingerprints of what they hold, and a suspicious reader: what
is damaged, strange or of another training is a ValueError that names file and field.  (Chapter 14)"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .tokenizer import shorten

STORED = (torch.float16, torch.float32)  # what weights are stored in


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let ``write`` fill a file beside ``path`` and move it there when it is complete.

    Raises OSError with the path; then there is no file or the old one, never half of a new one.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    except OSError as error:  # its own message would name the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # as open() would have made it; mkstemp's are private
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, readable and atomically."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def text_fingerprint(text: str) -> str:
    """16 hex digits that depend on every character."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that depend on every name, shape, dtype and value of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, atomically."""
    data = save(dict(tensors), metadata={"format": "pt"})
    write_atomically(path, lambda file: file.write(data))


def half(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights as they are stored: 16 bit, on the CPU. Raises ValueError for those beyond its range."""
    halves = {name: t.detach().cpu().half().contiguous() for name, t in tensors.items()}
    for name, tensor in halves.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{part}: a weight of {name} is no finite number in 16 bit")
    return halves


# ------------------------------------------------------------------------------------------- reading


def read_text(path: Path) -> str:
    """A file's text. Raises ValueError if it is none in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error


def read_json(path: Path, number: int) -> dict:
    """What a JSON file holds, whose field "format" has to be ``number``."""
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    found = read_field(path, content, "format", int)
    if found != number:
        reason = "newer than" if found > number else "not"
        raise ValueError(f"{path}: format {found} is {reason} {number}; update minidalle")
    return content


def read_field(path: Path, content: object, name: str, kind: type, prefix: str = "") -> object:
    """A field of a JSON object, of exactly that kind: True is an int, too."""
    value = content.get(name) if isinstance(content, dict) else None
    if type(value) is not kind:
        raise ValueError(f"{path}: field '{prefix}{name}' is missing or no {kind.__name__}")
    return value


def read_tensors(path: Path, marks: Mapping[str, str]) -> dict[str, Tensor]:
    """The finite tensors of a safetensors file with the fingerprint that is expected of it."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    compare_mark(path, fingerprint(tensors), marks)
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED or not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {shorten(name)} is no tensor of finite numbers in 16 or 32 bit"
            )
    return tensors


def compare_mark(path: Path, found: str, marks: Mapping[str, str]) -> None:
    """Raise ValueError unless a file's fingerprint is the one that stands in marks under its name."""
    part = path.stem
    if found != marks[part]:
        raise ValueError(
            f"{path} has fingerprint {found}, config.json expects {shorten(marks[part])} "
            f"(field fingerprints.{part}); the file was changed or belongs to another model"
        )
