"""The official dVAE: its published weights in our architecture.  (Chapter 15)

    encoder.pkl  decoder.pkl   →   config.json  dvae.safetensors  README.md

The architecture is that of `DVAEConfig()`, under other names: ``w`` and ``b`` for weight and bias,
``blocks.group_1.block_2.res_path.conv_3`` for the third convolution of the first group's second block.
The two files are pickles, which `torch_files` reads without executing anything in them.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .bundle_files import save_dvae
from .data import to_float, to_uint8
from .dvae import DVAE, DVAEConfig
from .tokenizer import shorten
from .torch_files import DECODER, ENCODER, read_tensors

CARD = """---
library_name: minidalle
license: other
license_name: modified-mit
license_link: https://github.com/openai/DALL-E/blob/master/LICENSE
tags:
- dvae
- dall-e
---

# The official dVAE of DALL·E

Converted by `minidalle convert` from `encoder.pkl` and `decoder.pkl` (github.com/openai/DALL-E), in 32 bit,
value for value. The licence is that of the original: OpenAI's modified MIT licence.
"""


# ------------------------------------------------------------------------------------- the architecture


def official_names(c: DVAEConfig, half: str) -> dict[str, str]:
    """The official name of every layer of one half, "encoder" or "decoder" → ours, both without w or b."""
    first = (
        2 if half == "encoder" else 1
    )  # place of the first block; the convolution before it is input
    step = c.blocks + 1  # the blocks of a group, and what changes the resolution
    names = {"blocks.input": first - 1, "blocks.output.conv": first + c.groups * step}
    names = {name: f"layers.{place}" for name, place in names.items()}
    for group in range(c.groups):
        for block in range(c.blocks):
            theirs = f"blocks.group_{group + 1}.block_{block + 1}"
            ours = f"layers.{first + group * step + block}"
            names[f"{theirs}.id_path"] = f"{ours}.id_path"
            for k in range(4):  # our branch is ReLU, convolution, ReLU, convolution, …
                names[f"{theirs}.res_path.conv_{k + 1}"] = f"{ours}.res_path.{2 * k + 1}"
    return names


class Half(NamedTuple):
    """encoder.pkl or decoder.pkl: its path, and its tensors under their official names."""

    path: str | Path
    tensors: dict[str, Tensor]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a convolution's weights."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.ndim != 4:
            raise ValueError(f"{self.path}: tensor {name!r} is missing or no convolution's")
        return tuple(tensor.shape)


def sizes(encoder: Half, decoder: Half) -> DVAEConfig:
    """The configuration that the shapes state: the paper's for the published files."""
    width, _, kernel, _ = encoder.shape("blocks.input.w")
    K = encoder.shape("blocks.output.conv.w")[0]
    first = decoder.shape("blocks.input.w")[0]
    branch = re.compile(r"blocks\.group_1\.block_\d+\.res_path\.conv_1\.w")
    blocks = sum(branch.fullmatch(name) is not None for name in encoder.tensors)
    try:
        return DVAEConfig(K=K, width=width, decoder_input=first, blocks=blocks, input_kernel=kernel)
    except ValueError as error:
        raise ValueError(f"{encoder.path}: {error}") from error


def translate(c: DVAEConfig, name: str, half: Half) -> dict[str, Tensor]:
    """The tensors of the "encoder" or the "decoder" under our names.

    Raises ValueError for a tensor that is missing, has no place or has another shape.
    """
    with torch.device("meta"):
        ours = DVAE(c).state_dict()
    names = {}
    for theirs, layer in official_names(c, name).items():
        names[f"{theirs}.w"] = f"{name}.{layer}.weight"
        names[f"{theirs}.b"] = f"{name}.{layer}.bias"
    names = {theirs: mine for theirs, mine in names.items() if mine in ours}
    for each in sorted(names.keys() ^ half.tensors.keys()):
        problem = "is missing" if each in names else "has no place in a dVAE"
        raise ValueError(f"{half.path}: tensor {shorten(repr(each))} {problem}")
    for theirs, mine in names.items():
        found, expected = tuple(half.tensors[theirs].shape), tuple(ours[mine].shape)
        if found != expected:
            raise ValueError(f"{half.path}: tensor {theirs!r} has shape {found}, not {expected}")
    return {mine: half.tensors[theirs] for theirs, mine in names.items()}


def read_official(encoder: str | Path, decoder: str | Path) -> DVAE:
    """The published dVAE, on the CPU in 32 bit: the same numbers, so the same tokens and pictures.

    encoder, decoder: paths of encoder.pkl and decoder.pkl. Raises OSError and ValueError, see
    `read_tensors`, and ValueError that names a tensor which does not fit. Appendix A.1; chapter 15.
    """
    halves = {
        "encoder": Half(encoder, read_tensors(encoder, ENCODER)),
        "decoder": Half(decoder, read_tensors(decoder, DECODER)),
    }
    c = sizes(**halves)
    with torch.device("meta"):
        model = DVAE(c)
    ours = [translate(c, name, half) for name, half in halves.items()]
    model.load_state_dict(ours[0] | ours[1], assign=True)
    return model.eval()


def convert(encoder: str | Path, decoder: str | Path, out: str | Path) -> Path:
    """Write the published files once more, as a folder for `bundle_files.load_dvae`; returns it.

    Raises FileExistsError for a folder that holds a model, and what `read_official` raises.
    """
    out = Path(out)
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} already holds a model; choose another --out")
    return save_dvae(read_official(encoder, decoder), out, "openai-dvae", CARD)


# ------------------------------------------------------------------------------------ the official usage


def open_picture(path: str | Path, size: int = 256) -> np.ndarray:
    """A photograph as the dVAE takes it: uint8 (size, size, 3), its shorter side scaled to ``size`` pixels
    and its middle cut out. Raises OSError if there is no file, ValueError if it is no picture or too small.
    """
    with open(path, "rb") as file:
        try:
            with Image.open(file) as image:
                picture = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no picture that can be read: {error}") from error
    if (side := min(picture.size)) < size:
        raise ValueError(
            f"{path} has only {side} pixels on its shorter side; at least {size} needed"
        )
    return crop(picture, size)


def crop(picture: Image.Image, size: int) -> np.ndarray:
    """The middle of a picture whose shorter side is scaled to ``size``: uint8 (size, size, 3)."""
    scale = size / min(picture.size)
    width, height = (round(scale * side) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.array(picture.crop((left, top, left + size, top + size)))


@torch.inference_mode()
def reconstruct(dvae: DVAE, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures uint8 (S, S, 3) through the tokens and back, uint8 (B, S, S, 3).

    As in the official usage: pixel map, argmax of the logits, decoder, sigmoid of μ, inverse pixel map.
    """
    device = next(dvae.parameters()).device
    both = [dvae.decode(dvae.encode(to_float([picture]).to(device))) for picture in pictures]
    return to_uint8(torch.cat(both))
