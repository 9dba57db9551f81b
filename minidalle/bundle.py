"""A trained set on disk: tokenizer, dVAE, DALL·E and a model card in one folder.  (Chapters 0 and 14)

    config.json  tokenizer.json  dvae.safetensors  dalle.safetensors  README.md (the card)

That is a model repository's layout on the Hugging Face hub too, from which `load` takes a bundle by
``owner/name`` and to which `Bundle.push` uploads one. A folder may also hold a dVAE alone (chapter 15).
Weights are stored in 16 bit and computed with in 32 bit. config.json carries a fingerprint of each part, so
that parts of different trainings cannot be mixed. Nothing is ever unpickled.
"""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from .dalle import DALLE, DALLEConfig
from .data import to_float, to_uint8
from .device import choose_device
from .dvae import DVAE, DVAEConfig
from .files import fingerprint, text_fingerprint, write_atomically, write_json
from .generate import Sampling, generate
from .show import Drawing
from .tokenizer import Tokenizer, shorten

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"
NAMES = ("config.json", "tokenizer.json", "dvae.safetensors", "dalle.safetensors")
DVAE_NAMES = ("config.json", "dvae.safetensors")
KINDS = {"dvae": DVAEConfig, "dalle": DALLEConfig}
STORED = (torch.float16, torch.float32)
HUB_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"  # owner/name
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
    """Everything that turns a caption into a picture. ``name`` is the preset it was trained with."""

    name: str
    tokenizer: Tokenizer
    dvae: DVAE
    dalle: DALLE
    card: str = ""
    clip: None = None

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
    ) -> Drawing:
        """Draw n pictures for each caption; the same arguments give the same pictures
        on the same machine (elsewhere rounding may turn a token).

        temperature, top_k, top_p, guidance: see `Sampling`. image: uint8 (size, size, 3), whose first
        ``rows`` rows of tokens every picture keeps (chapter 10). In a notebook the result shows itself.
        Raises ValueError for an empty or too long caption and for settings out of range.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        if not captions:
            raise ValueError("no caption given; describe a picture, e.g. 'a red circle'")
        sampling = Sampling(temperature, top_k, top_p, guidance)
        text = self.tokenizer.encode(captions).to(self.device)
        generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode():
            given = None if image is None else self.dvae.encode(to_float([image]).to(self.device))
            given = None if given is None else given.expand(len(text), -1)
            tokens = generate(self.dalle, text, generator, n, sampling, given, rows)
            pictures = torch.cat([self.dvae.decode(part) for part in tokens.split(64)])
        labels = tuple(caption for caption in captions for _ in range(n))
        title = f"minidalle · {self.name} · seed {seed}"
        return Drawing(to_uint8(pictures), labels, tokens.cpu().numpy(), title)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dalle.start.device

    def to(self, device: str | torch.device) -> "Bundle":
        """Move both models to a device, in place."""
        self.dvae.to(device)
        self.dalle.to(device)
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the bundle into a folder, which is made if needed; config.json, the seal, comes last.

        A card without front matter for the hub gets ours. Raises ValueError for weights beyond 16 bit.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"dvae": _half("dvae", self.dvae), "dalle": _half("dalle", self.dalle)}
        tokenizer = self.tokenizer.to_json()
        write_atomically(folder / "tokenizer.json", lambda f: f.write(tokenizer.encode()))
        sizes = {"dvae": asdict(self.dvae.config), "dalle": asdict(self.dalle.config)}
        marks = {"tokenizer": text_fingerprint(tokenizer)}
        return _write(folder, self.name, sizes, parts, marks, self.card)

    def push(self, repo_id: str, private: bool = False) -> str:
        """Upload the bundle to the Hugging Face hub as ``owner/name``, made if needed; returns its address.

        Raises ValueError for another form of name or without the library `huggingface_hub`, and OSError
        if the hub cannot be reached or refuses, for want of a token, say.
        """
        if not re.fullmatch(HUB_ID, repo_id):
            raise ValueError(f"a repository is called OWNER/NAME, not {repo_id!r}")
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise ValueError(f"to push a model, {INSTALL_HUB}") from error
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            try:
                hub = HfApi(library_name="minidalle")
                url = hub.create_repo(repo_id, private=private, exist_ok=True)
                message = f"minidalle {self.name}"
                hub.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message)
            except Exception as error:  # the library raises many kinds, its own and its transport's
                reason = shorten(_first_line(error), 200)
                raise OSError(f"the hub did not take {repo_id}: {reason}") from error
        return str(url)


INSTALL_HUB = "install the library: pip install 'minidalle[hub]'"


def load(model: str | Path = "tiny", device: str | torch.device | None = None) -> Bundle:
    """Load bundled weights by name, a bundle from a folder, or ``owner/name[@revision]`` from the hub.

    device: default a GPU if there is one. Raises FileNotFoundError if there is no such model, and ValueError
    that names file and field if one is damaged, mismatched or from a newer version. Chapter 0.
    """
    folder = find(model)
    file = folder / "config.json"
    config = _read_config(file, ("tokenizer", "dvae", "dalle"))
    marks = config["fingerprints"]
    # Of the file's text: another release of the library may write the same merges another way.
    _compare(
        folder / "tokenizer.json", text_fingerprint(_read_text(folder / "tokenizer.json")), marks
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
    _compare(file, config["mark"], marks)
    card = _read_card(folder / "README.md")
    return Bundle(config["name"], tokenizer, dvae, dalle, card).to(device or choose_device())


def load_dvae(model: str | Path, device: str | torch.device | None = None) -> DVAE:
    """The dVAE of a bundle, or one that has a folder to itself. Arguments and errors as of `load`."""
    folder = find(model, DVAE_NAMES)
    config = _read_config(folder / "config.json", ("dvae",))
    marks = config["fingerprints"]
    dvae = _read_model(DVAE, config["dvae"], folder / "dvae.safetensors", marks)
    _compare(folder / "config.json", config["mark"], marks)
    return dvae.to(device or choose_device())


def save_dvae(dvae: DVAE, folder: str | Path, name: str, card: str) -> Path:
    """Write a dVAE alone, in 32 bit, for `load_dvae`; config.json comes last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in dvae.state_dict().items()}
    return _write(folder, name, {"dvae": asdict(dvae.config)}, {"dvae": tensors}, {}, card)


def find(model: str | Path, names: Sequence[str] = NAMES) -> Path:
    """The folder of a bundled model's name, the folder itself, or a download of ``owner/name[@revision]``
    from the hub, which is asked only if there is no such folder.

    Raises FileNotFoundError if there is no such model or one of its files is missing.
    """
    for folder in (BUNDLED / str(model), Path(model)):
        if folder.is_dir():
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise FileNotFoundError(f"{folder} is no complete model: {missing[0]} is missing")
            return folder
    if isinstance(model, str) and re.fullmatch(rf"{HUB_ID}(@[\w./-]+)?", model):
        return find(_download(model), names)
    bundled = ", ".join(sorted(each.parent.name for each in BUNDLED.glob("*/config.json")))
    raise FileNotFoundError(
        f"there is no model {str(model)!r}; bundled: {bundled or 'none'}; else give a folder "
        "or OWNER/NAME on the Hugging Face hub"
    )


def _download(model: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise FileNotFoundError(
            f"there is no folder {model!r}; to look for it on the hub, {INSTALL_HUB}"
        ) from error
    repository, _, revision = model.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=[*NAMES, "README.md"]
        )
    except Exception as error:  # the library raises many kinds, its own and its transport's
        reason = shorten(_first_line(error), 200)
        raise FileNotFoundError(
            f"there is no folder {model!r}, and the hub has no such model or is out of reach: {reason}"
        ) from error
    return Path(folder)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
        data = save(tensors, metadata={"format": "pt"})
        write_atomically(folder / f"{part}.safetensors", lambda f, data=data: f.write(data))
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


def _half(part: str, module: nn.Module) -> dict[str, torch.Tensor]:
    tensors = {name: t.detach().cpu().half() for name, t in module.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{part}: a weight of {name} is no finite number in 16 bit")
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


# ------------------------------------------------------------------------------------------- reading


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8: {error}") from error


def _read_card(path: Path) -> str:
    return _read_text(path).removeprefix(FRONT_MATTER) if path.is_file() else ""


def _read_config(path: Path, parts: Sequence[str]) -> dict:
    text = _read_text(path)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    number = _field(path, config, "format", int)
    if number != FORMAT:
        reason = "newer than" if number > FORMAT else "not"
        raise ValueError(f"{path}: format {number} is {reason} {FORMAT}; update minidalle")
    read = {"name": _field(path, config, "name", str)}
    # One fingerprint covers the sizes of every model of the file, also of those that are not asked for.
    read["mark"] = text_fingerprint(json.dumps({k: config[k] for k in KINDS if k in config}))
    for part in KINDS.keys() & set(parts):
        read[part] = _read_sizes(path, part, _field(path, config, part, dict))
    marks = _field(path, config, "fingerprints", dict)
    read["fingerprints"] = {
        part: _field(path, marks, part, str, "fingerprints.") for part in ("config", *parts)
    }
    return read


def _read_sizes(path: Path, part: str, content: dict) -> DVAEConfig | DALLEConfig:
    kind = KINDS[part]
    unknown = set(content) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"{path}: unknown field {part}.{shorten(min(unknown))}")
    values = {
        field.name: _field(path, content, field.name, type(field.default), f"{part}.")
        for field in fields(kind)
    }
    try:
        return kind(**values)
    except ValueError as error:  # sizes that contradict each other
        raise ValueError(f"{path}: field {part}: {shorten(str(error), 200)}") from error


def _field(path: Path, content: object, name: str, kind: type, prefix: str = "") -> object:
    value = content.get(name) if isinstance(content, dict) else None
    if type(value) is not kind:  # True is an int, too
        raise ValueError(f"{path}: field '{prefix}{name}' is missing or no {kind.__name__}")
    return value


def _read_model(
    kind: type[DVAE] | type[DALLE],
    config: DVAEConfig | DALLEConfig,
    path: Path,
    marks: dict[str, str],
) -> DVAE | DALLE:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    _compare(path, fingerprint(tensors), marks)
    for name, tensor in tensors.items():
        if tensor.dtype not in STORED or not tensor.isfinite().all():
            raise ValueError(
                f"{path}: {shorten(name)} is no tensor of finite numbers in 16 or 32 bit"
            )
    _check_shapes(kind, config, path, tensors)
    model = kind(config)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def _check_shapes(
    kind: type[DVAE] | type[DALLE],
    config: DVAEConfig | DALLEConfig,
    path: Path,
    tensors: dict[str, torch.Tensor],
) -> None:
    """Compare with a model that has shapes only, so that no size in config.json fills the memory."""
    layers = config.L if isinstance(config, DALLEConfig) else config.groups * config.blocks
    problem = f"{len(tensors)} tensors for {layers} layers or blocks"
    if layers <= len(tensors):
        try:
            with torch.device("meta"):
                shapes = {name: tuple(t.shape) for name, t in kind(config).state_dict().items()}
        except (ValueError, RuntimeError, OverflowError, TypeError) as error:
            file = path.parent / "config.json"
            reason = shorten(_first_line(error), 200)
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


def _compare(path: Path, found: str, marks: dict[str, str]) -> None:
    part = path.stem
    if found != marks[part]:
        raise ValueError(
            f"{path} has fingerprint {found}, config.json expects {shorten(marks[part])} "
            f"(field fingerprints.{part}); the file was changed or belongs to another model"
        )
