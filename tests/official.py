"""Stand-ins for the official dVAE's classes, and the files that such modules are published in.

Written from the description in the paper's appendix A.1 and the names of the official state dict, by plain
loops, without anything of ours: an independent answer to compare with.
"""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn


class Conv2d(nn.Module):
    """A convolution whose parameters are called w and b."""

    def __init__(self, n_in, n_out, kw, use_float16=True, scale=1.0):
        self.n_in, self.n_out, self.kw, self.use_float16 = n_in, n_out, kw, use_float16
        self.device, self.requires_grad = torch.device("cpu"), False
        super().__init__()
        w = torch.randn(n_out, n_in, kw, kw) * scale / (n_in * kw**2) ** 0.5
        self.w, self.b = nn.Parameter(w, False), nn.Parameter(torch.randn(n_out) * 0.1, False)

    def forward(self, x):
        return F.conv2d(x, self.w, self.b, padding=self.kw // 2)


class _Block(nn.Module):
    def __init__(self, n_in, n_out, n_layers):
        self.n_in, self.n_out, self.n_layers = n_in, n_out, n_layers
        super().__init__()
        self.n_hid, self.post_gain = n_out // 4, 1 / n_layers**2
        self.id_path = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        layers, n = OrderedDict(), n_in
        for k, kw in enumerate(self.kernels, start=1):
            layers[f"relu_{k}"] = nn.ReLU()
            layers[f"conv_{k}"] = Conv2d(
                n, n_out if k == 4 else self.n_hid, kw, scale=2.8
            )  # 2.8⁴ ≈ 64, against the gain of 1/64
            n = self.n_hid
        self.res_path = nn.Sequential(layers)

    def forward(self, x):
        return self.id_path(x) + self.post_gain * self.res_path(x)


class EncoderBlock(_Block):
    kernels = (3, 3, 3, 1)


class DecoderBlock(_Block):
    kernels = (1, 3, 3, 3)


def stack(block, first, last, widths, blocks, between):
    """Four groups of blocks between two convolutions, and what changes the resolution between groups."""
    layers, n = OrderedDict(input=first), first.n_out
    for g, width in enumerate(widths, start=1):
        group = OrderedDict()
        for b in range(1, blocks + 1):
            group[f"block_{b}"] = block(n, width, len(widths) * blocks)
            n = width
        if g < len(widths):
            name, layer = between()
            group[name] = layer
        layers[f"group_{g}"] = nn.Sequential(group)
    layers["output"] = nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=last))
    return nn.Sequential(layers)


class Encoder(nn.Module):
    def __init__(self, n_hid=8, vocab_size=16, n_blk_per_group=2):
        self.n_hid, self.vocab_size, self.n_blk_per_group = n_hid, vocab_size, n_blk_per_group
        self.device = torch.device("cpu")
        super().__init__()
        self.blocks = stack(
            EncoderBlock,
            Conv2d(3, n_hid, 7),
            Conv2d(8 * n_hid, vocab_size, 1, use_float16=False),
            [n_hid, 2 * n_hid, 4 * n_hid, 8 * n_hid],
            n_blk_per_group,
            lambda: ("pool", nn.MaxPool2d(kernel_size=2)),
        )

    def forward(self, x):
        return self.blocks(x)


class Decoder(nn.Module):
    def __init__(self, n_hid=8, vocab_size=16, n_blk_per_group=2, n_init=8):
        self.n_hid, self.vocab_size, self.n_init = n_hid, vocab_size, n_init
        self.device = torch.device("cpu")
        super().__init__()
        self.blocks = stack(
            DecoderBlock,
            Conv2d(vocab_size, n_init, 1, use_float16=False),
            Conv2d(n_hid, 6, 1),
            [8 * n_hid, 4 * n_hid, 2 * n_hid, n_hid],
            n_blk_per_group,
            lambda: ("upsample", nn.Upsample(scale_factor=2, mode="nearest")),
        )

    def forward(self, z):
        return self.blocks(z)


PLACES = {
    "encoder": (Encoder, EncoderBlock),
    "decoder": (Decoder, DecoderBlock),
    "utils": (Conv2d,),
}


def pretend(monkeypatch) -> None:
    """Let the stand-ins be the classes of a package ``dall_e``, as a pickle names them."""
    for name, classes in PLACES.items():
        module = types.ModuleType(f"dall_e.{name}")
        for each in classes:
            setattr(module, each.__name__, each)
            monkeypatch.setattr(each, "__module__", module.__name__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(sys.modules, "dall_e", types.ModuleType("dall_e"))


# What a module of PyTorch 1.7 consists of; newer releases have added to it.
ATTRIBUTES = """training _parameters _buffers _non_persistent_buffers_set _backward_hooks _forward_hooks
_forward_pre_hooks _state_dict_hooks _load_state_dict_pre_hooks _modules""".split()


def save_new(module: nn.Module, path: Path) -> None:
    """As today's PyTorch writes it."""
    torch.save(module, path)


def save_legacy(module: nn.Module, path: Path) -> None:
    """As PyTorch before 1.6 did."""
    torch.save(module, path, _use_new_zipfile_serialization=False)


def save_2021(module: nn.Module, path: Path) -> None:
    """As PyTorch 1.7 did: no byte order, storages called by their address, modules with fewer attributes."""
    for each in module.modules():
        own = [k for k in each.__dict__ if k[0] != "_" or k in ATTRIBUTES]
        each.__dict__ = {k: each.__dict__[k] for k in own if k != "recompute_scale_factor"}
    storages, buffer = {}, io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, what):
            if not isinstance(what, torch.storage.TypedStorage):
                return None
            key = str(94_000_000_000_000 + len(storages))
            storages[key] = what
            return ("storage", torch.FloatStorage, key, "cuda:0", len(what))

    Pickler(buffer, protocol=2).dump(module)
    parts = {"version": b"3\n"}
    for key, storage in storages.items():
        parts[f"data/{key}"] = bytes(storage.untyped())
    path.write_bytes(archive(buffer.getvalue(), parts))


def archive(program: bytes, parts: dict[str, bytes] | None = None) -> bytes:
    """A zip with data.pkl and other parts, as torch.save lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": program, **(parts or {})}.items():
            file.writestr(f"archive/{name}", content)
    return buffer.getvalue()


FORMATS = {"new": save_new, "legacy": save_legacy, "2021": save_2021}
