"""The folder of a trained set: what lies in it, and how it is read without trust.  (Chapter 14)

    config.json  tokenizer.json  dvae.safetensors  dalle.safetensors  clip.safetensors  README.md (the card)

CLIP may be missing; then nothing is ranked. The layout is that of a model repository on the Hugging Face hub,
from which `find` takes a bundle by ``owner/name``. A folder may also hold a dVAE alone, in 32 bit
(chapter 15). Else weights are stored in 16 bit, and computed with in 32. config.json has name, the part of
the world that was learned, and the sizes, and a fingerprint of each part and of the sizes, so that parts of
different trainings cannot be mixed. Nothing is ever unpickled.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch

from .clip import CLIP, CLIPConfig
from .dalle import DALLE, DALLEConfig
from .data import Scope
from .device import choose_device
from .dvae import DVAE, DVAEConfig
from .files import (
    compare_mark,
    fingerprint,
    read_field,
    read_json,
    read_tensors,
    read_text,
    text_fingerprint,
    write_atomically,
    write_json,
    write_tensors,
)
from .hub import download, first_line, is_hub_id
from .tokenizer import shorten

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"
DALLE_NAME = "dalle.safetensors"
NAMES = ("config.json", "tokenizer.json", "dvae.safetensors", DALLE_NAME)
CLIP_NAME = "clip.safetensors"  # there if config.json says so
DVAE_NAMES = ("config.json", "dvae.safetensors")
KINDS = {"dvae": DVAEConfig, "dalle": DALLEConfig, "clip": CLIPConfig}
Config, Model = DVAEConfig | DALLEConfig | CLIPConfig, DVAE | DALLE | CLIP
FRONT_MATTER = """---
library_name: minidalle
pipeline_tag: text-to-image
license: cc-by-4.0
tags:
- dall-e
- text-to-image
---

"""  # what the hub reads of a card


def find(model: str | Path, names: Sequence[str] = NAMES) -> Path:
    """The folder of a bundled model's name (a plain string), the folder itself, or a download of
    ``owner/name[@revision]`` from the hub, which is asked only if there is no such folder.

    Raises FileNotFoundError if there is no such model or one of its files is missing.
    """
    bundled = {each.name for each in BUNDLED.glob("*/")}  # never equal to "./tiny" or Path("tiny")
    folder = BUNDLED / model if model in bundled else Path(model)
    if folder.is_dir():
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} is no complete model: {missing[0]} is missing")
        return folder
    if is_hub_id(model):
        more = (CLIP_NAME, "README.md") if DALLE_NAME in names else ("README.md",)
        return find(download(model, (*names, *more)), names)
    known = ", ".join(sorted(each.parent.name for each in BUNDLED.glob("*/dalle.safetensors")))
    raise FileNotFoundError(
        f"there is no model {str(model)!r}; bundled: {known or 'none'}; else give a folder "
        "or OWNER/NAME on the Hugging Face hub"
    )


def load_dvae(model: str | Path, device: str | torch.device | None = None) -> DVAE:
    """The dVAE of a bundle, or one that has a folder to itself. Arguments and errors as of `load`."""
    folder = find(model, DVAE_NAMES)
    config = read_config(folder / "config.json", ("dvae",))
    marks = config["fingerprints"]
    dvae = read_model(DVAE, config["dvae"], folder / "dvae.safetensors", marks)
    compare_mark(folder / "config.json", config["mark"], marks)
    return dvae.to(device or choose_device())


def save_dvae(dvae: DVAE, folder: str | Path, name: str, card: str) -> Path:
    """Write a dVAE alone, in 32 bit, for `load_dvae`; config.json comes last."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in dvae.state_dict().items()}
    return write_folder(Path(folder), name, {"dvae": asdict(dvae.config)}, {"dvae": tensors}, card)


# ------------------------------------------------------------------------------------------- writing


def write_folder(
    folder: Path,
    name: str,
    sizes: dict[str, dict],
    parts: dict[str, dict[str, torch.Tensor]],
    card: str,
    tokenizer: str | None = None,
    world: Scope | None = None,
) -> Path:
    """Write all files into a folder, which is made if needed; config.json, the seal, comes last.

    sizes, parts: configuration and tensors of each model. tokenizer: content of its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marks = {"config": text_fingerprint(json.dumps(sizes))}
    if tokenizer is not None:
        write_atomically(folder / "tokenizer.json", lambda file: file.write(tokenizer.encode()))
        marks["tokenizer"] = text_fingerprint(tokenizer)
    for part, tensors in parts.items():
        write_tensors(folder / f"{part}.safetensors", tensors)
    marks |= {part: fingerprint(tensors) for part, tensors in parts.items()}
    write_card(folder, card)
    learned = {"world": asdict(world)} if world else {}
    config = {"format": FORMAT, "name": name, **learned, **sizes, "fingerprints": marks}
    write_json(folder / "config.json", config)
    return folder


def write_card(folder: Path, card: str) -> None:
    """Write a model card, README.md, with our front matter for the hub if it has none of its own."""
    text = card if card.startswith("---\n") else FRONT_MATTER + card
    write_atomically(folder / "README.md", lambda file: file.write(text.encode()))


# ------------------------------------------------------------------------------------------- reading


def read_card(path: Path) -> str:
    """A card without our front matter; empty if there is none."""
    return read_text(path).removeprefix(FRONT_MATTER) if path.is_file() else ""


def read_config(path: Path, parts: Sequence[str], optional: Sequence[str] = ()) -> dict:
    """What config.json says of these parts: their configurations, fingerprints, the name and the world."""
    config = read_json(path, FORMAT)
    read = {"name": read_field(path, config, "name", str), "world": None}
    if "world" in config:
        read["world"] = _read_scope(path, read_field(path, config, "world", dict))
    # One fingerprint covers the sizes of every model of the file, also of those that are not asked for.
    read["mark"] = text_fingerprint(json.dumps({k: config[k] for k in KINDS if k in config}))
    parts = (*parts, *(part for part in optional if part in config))
    for part in KINDS.keys() & set(parts):
        read[part] = _read_sizes(path, part, read_field(path, config, part, dict))
    marks = read_field(path, config, "fingerprints", dict)
    read["fingerprints"] = {
        part: read_field(path, marks, part, str, "fingerprints.") for part in ("config", *parts)
    }
    return read


def _read_scope(path: Path, content: dict) -> Scope:
    """Names alone: a model may know families that this package does not."""
    where = read_field(path, content, "where", dict, "world.")
    names = {"families": read_field(path, content, "families", list, "world.")}
    names |= {
        f"where.{slot}": read_field(path, where, slot, list, "world.where.") for slot in where
    }
    for field, values in names.items():
        if not values or not all(isinstance(value, str) for value in values):
            raise ValueError(f"{path}: field 'world.{field}' is empty or no list of names")
    return Scope(tuple(content["families"]), {slot: tuple(where[slot]) for slot in where})


def _read_sizes(path: Path, part: str, content: dict) -> Config:
    kind = KINDS[part]
    unknown = set(content) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{path}: unknown field {part}.{shorten(min(unknown))}")
    values = {
        field.name: read_field(path, content, field.name, type(field.default), f"{part}.")
        for field in fields(kind)
    }
    try:
        return kind(**values)
    except ValueError as error:  # sizes that contradict each other
        raise ValueError(f"{path}: field {part}: {shorten(str(error), 200)}") from error


def read_model(kind: type[Model], config: Config, path: Path, marks: dict[str, str]) -> Model:
    """A model with the weights of a file. Raises ValueError if they are not those or do not fit."""
    tensors = read_tensors(path, marks)
    _check_shapes(kind, config, path, tensors)
    model = kind(config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def read_clip(folder: Path, config: dict, marks: dict[str, str]) -> CLIP:
    """CLIP, which must read the captions and see the pictures of the other parts."""
    if not (path := folder / CLIP_NAME).is_file():
        raise FileNotFoundError(f"{folder} is no complete model: {CLIP_NAME} is missing")
    c, dalle = config["clip"], config["dalle"]
    theirs = {"V": dalle.V, "T": dalle.T, "size": config["dvae"].size}
    for name, value in theirs.items():
        if (ours := getattr(c, name)) != value:
            raise ValueError(
                f"{folder / 'config.json'}: field clip.{name} is {ours}, the other parts have {value}"
            )
    return read_model(CLIP, c, path, marks)


def _check_shapes(
    kind: type[Model], config: Config, path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    """Compare with a model that has shapes only, so that no size in config.json fills the memory."""
    layers = config.groups * config.blocks if isinstance(config, DVAEConfig) else config.L
    problem = f"{len(tensors)} tensors for {layers} layers or blocks"
    if layers <= len(tensors):
        try:
            with torch.device("meta"):
                shapes = {name: tuple(t.shape) for name, t in kind(config).state_dict().items()}
        except (ValueError, RuntimeError, OverflowError, TypeError) as error:
            file = path.parent / "config.json"
            reason = shorten(first_line(error), 200)
            raise ValueError(f"{file}: field {path.stem}: {reason}") from error
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        wrong = {name for name, _ in shapes.items() ^ found.items()}
        if not wrong:
            return
        name = min(wrong)
        problem = (
            f"{shorten(name)} is {found.get(name, 'missing')}, not {shapes.get(name, 'there')}"
        )
    raise ValueError(f"{path} does not fit config.json: {problem}")
