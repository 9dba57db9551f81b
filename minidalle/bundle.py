"""A trained set on disk: tokenizer, dVAE, DALL·E, CLIP and a model card in one folder.  (Chapters 0 and 14)

    config.json  tokenizer.json  dvae.safetensors  dalle.safetensors  clip.safetensors  README.md (the card)

CLIP may be missing; then nothing is ranked. The layout is that of a model repository on the Hugging Face hub,
from which `load` takes a bundle by ``owner/name`` and to which `Bundle.push` uploads one. A folder may also
hold a dVAE alone (chapter 15).
Weights are stored in 16 bit and computed with in 32 bit. config.json carries a fingerprint of each part, so
that parts of different trainings cannot be mixed. Nothing is ever unpickled.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from .clip import CLIP, CLIPConfig
from .clip import best_of as choose_best
from .dalle import DALLE, DALLEConfig
from .data import to_float, to_uint8
from .device import choose_device
from .dvae import DVAE, DVAEConfig
from .files import (
    compare_mark,
    fingerprint,
    half,
    read_field,
    read_json,
    read_tensors,
    read_text,
    text_fingerprint,
    write_atomically,
    write_json,
    write_tensors,
)
from .generate import Sampling, generate
from .hub import download, first_line, is_hub_id, upload
from .show import Drawing
from .tokenizer import Tokenizer, shorten

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"
NAMES = ("config.json", "tokenizer.json", "dvae.safetensors", "dalle.safetensors")
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
TEMPERATURE, TOP_K = 1.0, None  # the paper's temperature; it then reranks with CLIP (chapter 11)


@dataclass
class Bundle:
    """Everything that turns a caption into a picture. ``name`` is the preset it was trained with, and
    the data if those are not the world's; ``clip`` is there if the bundle can rank its pictures."""

    name: str
    tokenizer: Tokenizer
    dvae: DVAE
    dalle: DALLE
    card: str = ""
    clip: CLIP | None = None

    def draw(
        self,
        captions: str | Sequence[str],
        n: int = 1,
        seed: int = 0,
        temperature: float = TEMPERATURE,
        top_k: int | None = TOP_K,
        top_p: float | None = None,
        guidance: float = 1.0,
        image: np.ndarray | None = None,
        rows: int = 0,
        best_of: int | None = None,
    ) -> Drawing:
        """Draw n pictures for each caption; the same arguments give the same pictures
        on the same machine (elsewhere rounding may turn a token).

        temperature, top_k, top_p, guidance: see `Sampling`. image: uint8 (size, size, 3), whose first
        ``rows`` rows of tokens every picture keeps (chapter 10). best_of: draw so many candidates for each
        caption and keep the n that CLIP ranks highest, best first (paper, §2.6; chapter 11). In a notebook
        the result shows itself. Raises ValueError for an empty or too long caption, for settings out of range
        and where there is no CLIP to choose with.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions:
            raise ValueError("no caption given; describe a picture, e.g. 'a red circle'")
        self._check_best_of(n, best_of)
        sampling = Sampling(temperature, top_k, top_p, guidance)
        text = self.tokenizer.encode(captions).to(self.device)
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            given = None if image is None else self.dvae.encode(to_float([image]).to(self.device))
            given = None if given is None else given.expand(len(text), -1)
            tokens = generate(self.dalle, text, generator, best_of or n, sampling, given, rows)
            decoded = torch.cat([self.dvae.decode(part) for part in tokens.split(64)])
        pictures, title = to_uint8(decoded), f"minidalle · {self.name} · seed {seed}"
        if best_of is not None:
            kept = self._choose(pictures, captions, n)
            pictures, tokens, title = pictures[kept], tokens[kept], f"{title} · best of {best_of}"
        labels = tuple(caption for caption in captions for _ in range(n))
        return Drawing(pictures, labels, tokens.cpu().numpy(), title)

    @torch.inference_mode()
    def similarity(
        self, pictures: np.ndarray | torch.Tensor, captions: str | Sequence[str]
    ) -> torch.Tensor:
        """How well CLIP finds every picture to fit every caption: cosines (B, C) on the CPU. Chapter 11.

        pictures: uint8 (B, size, size, 3), as drawings have them, or floats (B, 3, size, size) in [0, 1].
        Raises ValueError where there is no CLIP, and for pictures and captions that it cannot read.
        """
        clip, captions = self._clip(), [captions] if isinstance(captions, str) else list(captions)
        floats = pictures if isinstance(pictures, torch.Tensor) else to_float(pictures)
        text = clip.text_features(self.tokenizer.encode(captions).to(self.device))
        images = [clip.image_features(part.to(self.device)) for part in floats.split(256)]
        return (torch.cat(images) @ text.T).cpu()

    def _clip(self) -> CLIP:
        if self.clip is None:
            raise ValueError(
                f"the model {self.name!r} has no CLIP to rank pictures with; draw without best_of, or take a "
                "model that has one: a bundled one, or a preset with clip_training"
            )
        return self.clip

    def _check_best_of(self, n: int, best_of: int | None) -> None:
        if best_of is not None and self._clip() and not 1 <= n <= best_of:
            raise ValueError(f"cannot keep the best {n} of {best_of} pictures for each caption")

    def _choose(self, pictures: np.ndarray, captions: Sequence[str], n: int) -> np.ndarray:
        """Which of equally many candidates for each caption to keep: n of each, the best one first."""
        parts = np.split(pictures, len(captions))
        scores = [self.similarity(part, c).T for part, c in zip(parts, captions, strict=True)]
        kept = choose_best(torch.cat(scores), n)
        return (kept + len(parts[0]) * torch.arange(len(parts))[:, None]).flatten().numpy()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dalle.start.device

    def to(self, device: str | torch.device) -> "Bundle":
        """Move all models to a device, in place."""
        for model in self.models().values():
            model.to(device)
        return self

    def models(self) -> dict[str, Model]:
        """The parts with weights, by the names of their files."""
        parts = {"dvae": self.dvae, "dalle": self.dalle, "clip": self.clip}
        return {part: model for part, model in parts.items() if model is not None}

    def save(self, folder: str | Path) -> Path:
        """Write the bundle into a folder, which is made if needed; config.json, the seal, comes last.

        A card without front matter for the hub gets ours. Raises ValueError for weights beyond 16 bit.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {part: half(part, model.state_dict()) for part, model in self.models().items()}
        tokenizer = self.tokenizer.to_json()
        write_atomically(folder / "tokenizer.json", lambda f: f.write(tokenizer.encode()))
        sizes = {part: asdict(model.config) for part, model in self.models().items()}
        marks = {"tokenizer": text_fingerprint(tokenizer)}
        return _write(folder, self.name, sizes, parts, marks, self.card)

    def push(self, repo_id: str, private: bool = False) -> str:
        """Upload the bundle to the Hugging Face hub as ``owner/name``, made if needed; returns its address.

        Raises ValueError for another form of name or without the library `huggingface_hub`, and OSError
        if the hub cannot be reached or refuses, for want of a token, say.
        """
        return upload(self.save, repo_id, f"minidalle {self.name}", private)


def load(model: str | Path = "tiny", device: str | torch.device | None = None) -> Bundle:
    """Load bundled weights by name, a bundle from a folder, or ``owner/name[@revision]`` from the hub.

    device: default a GPU if there is one. Raises FileNotFoundError if there is no such model, and ValueError
    that names file and field if one is damaged, mismatched or from a newer version. Chapter 0.
    """
    folder = find(model)
    file = folder / "config.json"
    config = _read_config(file, ("tokenizer", "dvae", "dalle"), ("clip",))
    marks = config["fingerprints"]
    # Of the file's text: another release of the library may write the same merges another way.
    compare_mark(
        folder / "tokenizer.json", text_fingerprint(read_text(folder / "tokenizer.json")), marks
    )
    tokenizer = Tokenizer.load(folder / "tokenizer.json", config["dalle"].T)
    if (V := config["dalle"].V) != tokenizer.V:
        raise ValueError(f"{file}: the tokenizer has {tokenizer.V} tokens, field dalle.V says {V}")
    dvae = _read_model(DVAE, config["dvae"], folder / "dvae.safetensors", marks)
    dalle = _read_model(DALLE, config["dalle"], folder / "dalle.safetensors", marks)
    if (K := dvae.config.K) != dalle.config.K:
        raise ValueError(f"{file}: field dvae.K says {K} codes, dalle.K {dalle.config.K}")
    if ((grid := dvae.config.grid),) * 2 != (dalle.config.h, dalle.config.w):
        h, w = dalle.config.h, dalle.config.w
        raise ValueError(
            f"{file}: field dvae.size gives {grid}×{grid} tokens, dalle.h and dalle.w {h}×{w}"
        )
    clip = _read_clip(folder, config, marks) if "clip" in config else None
    compare_mark(file, config["mark"], marks)
    card = _read_card(folder / "README.md")
    return Bundle(config["name"], tokenizer, dvae, dalle, card, clip).to(device or choose_device())


def load_dvae(model: str | Path, device: str | torch.device | None = None) -> DVAE:
    """The dVAE of a bundle, or one that has a folder to itself. Arguments and errors as of `load`."""
    folder = find(model, DVAE_NAMES)
    config = _read_config(folder / "config.json", ("dvae",))
    marks = config["fingerprints"]
    dvae = _read_model(DVAE, config["dvae"], folder / "dvae.safetensors", marks)
    compare_mark(folder / "config.json", config["mark"], marks)
    return dvae.to(device or choose_device())


def save_dvae(dvae: DVAE, folder: str | Path, name: str, card: str) -> Path:
    """Write a dVAE alone, in 32 bit, for `load_dvae`; config.json comes last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in dvae.state_dict().items()}
    return _write(folder, name, {"dvae": asdict(dvae.config)}, {"dvae": tensors}, {}, card)


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
        return find(download(model, (*NAMES, CLIP_NAME, "README.md")), names)
    known = ", ".join(sorted(each.parent.name for each in BUNDLED.glob("*/dalle.safetensors")))
    raise FileNotFoundError(
        f"there is no model {str(model)!r}; bundled: {known or 'none'}; else give a folder "
        "or OWNER/NAME on the Hugging Face hub"
    )


# ------------------------------------------------------------------------------------------- writing


def _write(
    folder: Path,
    name: str,
    sizes: dict[str, dict],
    parts: dict[str, dict[str, torch.Tensor]],
    marks: dict[str, str],
    card: str,
) -> Path:
    for part, tensors in parts.items():
        write_tensors(folder / f"{part}.safetensors", tensors)
    write_card(folder, card)
    marks = {
        "config": text_fingerprint(json.dumps(sizes)),
        **marks,
        **{part: fingerprint(tensors) for part, tensors in parts.items()},
    }
    config = {"format": FORMAT, "name": name, **sizes, "fingerprints": marks}
    write_json(folder / "config.json", config)
    return folder


def write_card(folder: Path, card: str) -> None:
    """Write a model card, README.md, with our front matter for the hub if it has none of its own."""
    text = card if card.startswith("---\n") else FRONT_MATTER + card
    write_atomically(folder / "README.md", lambda file: file.write(text.encode()))


# ------------------------------------------------------------------------------------------- reading


def _read_card(path: Path) -> str:
    return read_text(path).removeprefix(FRONT_MATTER) if path.is_file() else ""


def _read_config(path: Path, parts: Sequence[str], optional: Sequence[str] = ()) -> dict:
    config = read_json(path, FORMAT)
    read = {"name": read_field(path, config, "name", str)}
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


def _read_model(kind: type[Model], config: Config, path: Path, marks: dict[str, str]) -> Model:
    tensors = read_tensors(path, marks)
    _check_shapes(kind, config, path, tensors)
    model = kind(config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def _read_clip(folder: Path, config: dict, marks: dict[str, str]) -> CLIP:
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
    return _read_model(CLIP, c, path, marks)


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
