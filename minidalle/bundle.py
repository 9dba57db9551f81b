"""A trained set: tokenizer, dVAE, DALL·E and CLIP, which draw a caption.  (Chapters 0 and 14)

    bundle = load("tiny")
    bundle.draw("a small red circle", n=4).save("circles.png")

`bundle_files` says how it lies in a folder.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from .bundle_files import (
    Model,
    find,
    read_card,
    read_clip,
    read_config,
    read_model,
    write_folder,
)
from .clip import CLIP
from .clip import best_of as choose_best
from .dalle import DALLE
from .data import Scope, to_float, to_uint8
from .device import choose_device
from .dvae import DVAE
from .files import compare_mark, half, read_text, text_fingerprint
from .generate import Sampling, generate
from .hub import upload
from .show import Drawing
from .tokenizer import Tokenizer

TEMPERATURE, TOP_K = 1.0, None  # the paper's temperature; it then reranks with CLIP (chapter 11)


@dataclass
class Bundle:
    """Everything that turns a caption into a picture. ``name`` is the preset it was trained with, and
    the data if those are not the world's; ``clip`` is there if the bundle can rank its pictures; ``world`` is
    the part of the world that it learned, None if it learned other pictures."""

    name: str
    tokenizer: Tokenizer
    dvae: DVAE
    dalle: DALLE
    card: str = ""
    clip: CLIP | None = None
    world: Scope | None = None

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
        parts = {part: half(part, model.state_dict()) for part, model in self.models().items()}
        sizes = {part: asdict(model.config) for part, model in self.models().items()}
        tokenizer = self.tokenizer.to_json()
        return write_folder(Path(folder), self.name, sizes, parts, self.card, tokenizer, self.world)

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
    config = read_config(file, ("tokenizer", "dvae", "dalle"), ("clip",))
    marks = config["fingerprints"]
    # Of the file's text: another release of the library may write the same merges another way.
    compare_mark(
        folder / "tokenizer.json", text_fingerprint(read_text(folder / "tokenizer.json")), marks
    )
    tokenizer = Tokenizer.load(folder / "tokenizer.json", config["dalle"].T)
    if (V := config["dalle"].V) != tokenizer.V:
        raise ValueError(f"{file}: the tokenizer has {tokenizer.V} tokens, field dalle.V says {V}")
    dvae = read_model(DVAE, config["dvae"], folder / "dvae.safetensors", marks)
    dalle = read_model(DALLE, config["dalle"], folder / "dalle.safetensors", marks)
    if (K := dvae.config.K) != dalle.config.K:
        raise ValueError(f"{file}: field dvae.K says {K} codes, dalle.K {dalle.config.K}")
    if ((grid := dvae.config.grid),) * 2 != (dalle.config.h, dalle.config.w):
        h, w = dalle.config.h, dalle.config.w
        raise ValueError(
            f"{file}: field dvae.size gives {grid}×{grid} tokens, dalle.h and dalle.w {h}×{w}"
        )
    clip = read_clip(folder, config, marks) if "clip" in config else None
    compare_mark(file, config["mark"], marks)
    card = read_card(folder / "README.md")
    bundle = Bundle(config["name"], tokenizer, dvae, dalle, card, clip, config["world"])
    return bundle.to(device or choose_device())
