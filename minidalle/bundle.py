"""A trained set on disk: tokenizer, dVAE, DALL·E and a model card in one folder.  (Chapters 0 and 14)

    config.json  tokenizer.json  dvae.safetensors  dalle.safetensors  README.md (the card)

Weights are stored in 16 bit and computed with in 32 bit. config.json carries a fingerprint of each part, so
that parts of different trainings cannot be mixed. Nothing is ever unpickled.
"""

import json
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
from .tokenizer import Tokenizer

FORMAT = 1
BUNDLED = Path(__file__).parent / "weights"
NAMES = ("config.json", "tokenizer.json", "dvae.safetensors", "dalle.safetensors")
TEMPERATURE, TOP_K = 1.0, None  # the paper's temperature; it then reranks with CLIP (chapter 11)


@dataclass
class Bundle:
    """Everything that turns a caption into a picture. ``name`` is the preset it was trained with."""

    name: str
    tokenizer: Tokenizer
    dvae: DVAE
    dalle: DALLE
    card: str = ""

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
        """Write the bundle into a folder, which is made if needed; config.json, the seal, comes last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"dvae": _half(self.dvae), "dalle": _half(self.dalle)}
        tokenizer = self.tokenizer.to_json()
        write_atomically(folder / "tokenizer.json", lambda f: f.write(tokenizer.encode()))
        for part, tensors in parts.items():
            data = save(tensors, metadata={"format": "pt"})
            write_atomically(folder / f"{part}.safetensors", lambda f, data=data: f.write(data))
        write_atomically(folder / "README.md", lambda f: f.write(self.card.encode()))
        sizes = {"dvae": asdict(self.dvae.config), "dalle": asdict(self.dalle.config)}
        config = {
            "format": FORMAT,
            "name": self.name,
            **sizes,
            "fingerprints": {
                "config": text_fingerprint(json.dumps(sizes)),
                "tokenizer": text_fingerprint(tokenizer),
                **{part: fingerprint(tensors) for part, tensors in parts.items()},
            },
        }
        write_json(folder / "config.json", config)
        return folder


def load(model: str | Path = "tiny", device: str | torch.device | None = None) -> Bundle:
    """Load bundled weights by name, or a bundle from a folder. Chapter 0.

    device: default a GPU if there is one. Raises FileNotFoundError if there is no such model, and ValueError
    that names file and field if one is damaged, mismatched or from a newer version.
    """
    folder = find(model)
    config = _read_config(folder / "config.json")
    tokenizer = Tokenizer.load(folder / "tokenizer.json", config["dalle"].T)
    # Of the file's text: another release of the library may write the same merges another way.
    mark = text_fingerprint((folder / "tokenizer.json").read_text(encoding="utf-8"))
    _compare(folder / "tokenizer.json", mark, config["fingerprints"]["tokenizer"])
    if (V := config["dalle"].V) != tokenizer.V:
        raise ValueError(f"{folder}: the tokenizer has {tokenizer.V} tokens, DALL·E reads {V}")
    try:
        models = {"dvae": DVAE(config["dvae"]), "dalle": DALLE(config["dalle"])}
    except (ValueError, RuntimeError) as error:  # sizes that contradict each other or fit no memory
        raise ValueError(f"{folder / 'config.json'}: {error}") from error
    for part, module in models.items():
        _fill(module, folder / f"{part}.safetensors", config["fingerprints"][part])
    if (K := config["dvae"].K) != config["dalle"].K:
        raise ValueError(f"{folder}: the dVAE has {K} codes, DALL·E draws {config['dalle'].K}")
    if ((grid := config["dvae"].grid),) * 2 != (config["dalle"].h, config["dalle"].w):
        h, w = config["dalle"].h, config["dalle"].w
        raise ValueError(f"{folder}: the dVAE has {grid}×{grid} tokens, DALL·E draws {h}×{w}")
    _compare(folder / "config.json", config["mark"], config["fingerprints"]["config"])
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    bundle = Bundle(config["name"], tokenizer, models["dvae"].eval(), models["dalle"].eval(), text)
    return bundle.to(device or choose_device())


def find(model: str | Path) -> Path:
    """The folder of a bundled model's name, or the folder itself.

    Raises FileNotFoundError if there is no such model or one of its files is missing.
    """
    for folder in (BUNDLED / str(model), Path(model)):
        if folder.is_dir():
            missing = [name for name in NAMES if not (folder / name).exists()]
            if missing:
                raise FileNotFoundError(f"{folder} is no complete model: {missing[0]} is missing")
            return folder
    bundled = ", ".join(sorted(each.parent.name for each in BUNDLED.glob("*/config.json")))
    raise FileNotFoundError(
        f"there is no model {str(model)!r}; bundled: {bundled or 'none'}; else give a folder"
    )


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if type(config["format"]) is not int:
            raise TypeError("format")
        if config["format"] > FORMAT:
            raise ValueError(
                f"{path}: format {config['format']} is newer than {FORMAT}; update minidalle"
            )
        config["mark"] = text_fingerprint(json.dumps({k: config[k] for k in ("dvae", "dalle")}))
        for name, kind in (("dvae", DVAEConfig), ("dalle", DALLEConfig)):
            unknown = set(config[name]) - {field.name for field in fields(kind)}
            if unknown:
                raise ValueError(f"{path}: unknown field {name}.{min(unknown)}")
            for field in fields(kind):
                if type(config[name][field.name]) is not type(field.default):
                    raise TypeError(f"{name}.{field.name}")
            config[name] = kind(**config[name])
        config["fingerprints"] = {part: config["fingerprints"][part] for part in FINGERPRINTED}
        config["name"] = str(config["name"])
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: field {error} is missing or of a wrong kind") from error
    return config


FINGERPRINTED = ("config", "tokenizer", "dvae", "dalle")


def _fill(module: nn.Module, path: Path, mark: str) -> None:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    _compare(path, fingerprint(tensors), mark)
    try:
        module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit config.json: {first}") from error


def _compare(path: Path, found: str, expected: str) -> None:
    if found != expected:
        raise ValueError(
            f"{path} has fingerprint {found}, config.json expects {expected}; "
            "the file was changed or belongs to another model"
        )


def _half(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.detach().cpu().half().contiguous() for name, t in module.state_dict().items()}
