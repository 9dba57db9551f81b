"""minidalle beside dalle-pytorch 1.6.6, the best-known public DALL·E code, in one run on one machine.

    pip install --target other --no-deps dalle-pytorch==1.6.6 einops==0.8.2 \
        rotary-embedding-torch==0.8.9 axial-positional-embedding==0.3.12
    PYTHONPATH=other python benchmarks/against_dalle_pytorch.py [--json FILE]

Equal on both sides: width, depth, heads and their size, kinds of layers, text and image lengths, batch,
vocabularies. Left as each of them is: the other's MLP has a gate (half again as many weights), it rotates
keys and shifts tokens; ours has two heads. Its cache is on. Training is a step of AdamW on tokens.
Each pair is timed in turns, so that a disturbance of the machine meets both.
"""

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import torch

from minidalle.dalle import DALLE, DALLEConfig
from minidalle.generate import generate

D, H, L, V, K, KERNEL = 256, 8, 6, 512, 512, 5
KINDS = ("axial_row", "axial_col", "axial_row", "axial_row", "axial_row", "conv_like")
LENGTHS = {"16 + 64": (16, 8), "80 + 256": (80, 16)}  # text tokens, rows of the grid
# As each of them comes, ours chooses bfloat16 where the processor has it and the other does not.
PRECISIONS = {"as it comes": (True, False), "fp32": (False, False), "bf16": (True, True)}
ROUNDS = 5
PATIENCE = 60.0  # seconds after which a pair of calls gets no further round


def theirs(T: int, side: int) -> torch.nn.Module:
    """The other model. What it imports and does not use here is replaced by stand-ins."""
    for name in ("omegaconf", "taming", "taming.models", "taming.models.vqgan"):
        sys.modules.setdefault(name, MagicMock())
    version = types.SimpleNamespace(version="1.6.6")
    sys.modules["pkg_resources"] = MagicMock(get_distribution=lambda name: version)
    for name in ("torchvision", "youtokentome", "transformers", "ftfy", "regex"):
        sys.modules.setdefault(name, MagicMock())
    # A class, since the other code asks whether its VAE is an instance of it.
    sys.modules["taming.models.vqgan"].VQModel = type("VQModel", (), {})
    from dalle_pytorch import DALLE as Other
    from dalle_pytorch import DiscreteVAE

    vae = DiscreteVAE(image_size=8 * side, num_layers=3, num_tokens=K, codebook_dim=8, hidden_dim=8)
    sizes = {"dim": D, "depth": L, "heads": H, "dim_head": D // H}
    return Other(vae=vae, num_text_tokens=V, text_seq_len=T, attn_types=KINDS, **sizes)


def ours(T: int, side: int) -> DALLE:
    """Our model of the same sizes."""
    return DALLE(DALLEConfig(V=V, T=T, K=K, h=side, w=side, D=D, H=H, L=L, kernel=KERNEL))


def turns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
        if sum(map(sum, times.values())) > PATIENCE:
            break
    return {name: statistics.median(each) for name, each in times.items()}


def trainer(model: torch.nn.Module, loss: Callable[[], torch.Tensor], bf16: bool):
    """A whole step: forward, backward, AdamW."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4, fused=True)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare_training(T: int, side: int, batch: int, bf16: tuple[bool, bool]) -> dict[str, float]:
    """Samples/s of both; bf16: whether ours and theirs run under autocast."""
    text, image = torch.randint(1, V, (batch, T)), torch.randint(K, (batch, side * side))
    a, b = ours(T, side), theirs(T, side)
    calls = {
        "ours": trainer(a, lambda: a.loss(text, image).loss, bf16[0]),
        "theirs": trainer(b, lambda: b(text, image, return_loss=True), bf16[1]),
    }
    for step in calls.values():
        step()
    return {name: batch / t for name, t in turns(calls).items()}


def compare_sampling(T: int, side: int, batch: int) -> dict[str, float]:
    """Images/s of both, decoding of the pixels left out on our side and minimal on theirs."""
    text = torch.randint(1, V, (batch, T))
    a, b = ours(T, side).eval(), theirs(T, side).eval()
    calls = {
        "ours": lambda: generate(a, text, torch.Generator().manual_seed(0)),
        "theirs": lambda: b.generate_images(text, use_cache=True),
    }
    generate(a, text[:1], torch.Generator())  # the first picture of a process is slow
    b.generate_images(text[:1], use_cache=True)
    return {name: batch / t for name, t in turns(calls).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the table as JSON")
    parser.add_argument("--only", choices=LENGTHS, help="one of the two lengths")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for name, (T, side) in LENGTHS.items():
        if arguments.only not in (None, name):
            continue
        for way, bf16 in PRECISIONS.items():
            found = compare_training(T, side, 32 if side == 8 else 8, bf16)
            rows.append({"what": f"training, {way}", "tokens": name, **found})
            report(rows[-1], "samples/s")
        for batch in (1, 32):
            found = compare_sampling(T, side, batch)
            rows.append({"what": f"sampling, batch {batch}", "tokens": name, **found})
            report(rows[-1], "images/s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def report(row: dict, unit: str) -> None:
    """One line of the table."""
    ratio = row["ours"] / row["theirs"]
    figures = f"ours {row['ours']:8.3g}  theirs {row['theirs']:8.3g} {unit}  {ratio:6.1f} times"
    print(f"{row['tokens']:<10}{row['what']:<22}{figures}", flush=True)


if __name__ == "__main__":
    main()
