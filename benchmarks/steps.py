"""What each step of the way gains: training and sampling of one model, a step at a time.

    python benchmarks/steps.py

The model of `minidalle bench` with about 4 M parameters, 16 text and 8×8 image tokens. All variants of a
table take turns in one run, so the ratios hold however noisy the machine is.
"""

import statistics
import time
from collections.abc import Callable

import torch

from minidalle.bench import BATCH, STREAM, generate_uncached, random_tokens
from minidalle.dalle import DALLE
from minidalle.generate import generate
from minidalle.transformer import Transformer

CPU = torch.device("cpu")
ROUNDS = 7


class DenseDecoding(Transformer):
    """Decodes against every cached key, under the mask, also in sparse layers."""

    def extend(self, x, cache):
        start, end = cache.length, cache.length + x.shape[1]
        masks = [mask[start:end, :end] for mask in self.geometry("dense", x.device)]
        for layer, kv, mask in zip(self.layers, cache.layers, masks, strict=True):
            x = layer.extend(x, kv, start, [slice(0, end)], mask)
        cache.length = end
        return self.norm(x)


def trainer(form: str, bf16: bool, fused: bool) -> Callable[[], None]:
    """A training step: forward, backward, AdamW."""
    model = DALLE(STREAM)
    model.transformer.form = form
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=fused)
    text, image = random_tokens(STREAM, BATCH, CPU)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.loss(text, image).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampler(way: str, batch: int) -> Callable[[], object]:
    """One picture for each of ``batch`` captions."""
    model = DALLE(STREAM).eval()
    if way == "cache, every key":
        model.transformer.__class__ = DenseDecoding
    draw = generate_uncached if way == "no cache" else generate
    text, _ = random_tokens(STREAM, batch, CPU)
    return lambda: draw(model, text, torch.Generator().manual_seed(0))


def table(title: str, calls: dict[str, Callable[[], object]], count: int, unit: str) -> None:
    """Median rates of calls that take turns, and what each gains over the one before."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(ROUNDS + 1):  # the first one warms up
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name] += [time.perf_counter() - began] if round_ else []
    print(title)
    before = None
    for name, each in times.items():
        rate = count / statistics.median(each)
        print(f"  {name:<36}{rate:10,.0f} {unit}" + (f"   × {rate / before:.2f}" if before else ""))
        before = rate


def main() -> None:
    torch.manual_seed(0)
    training = {
        "float32, PyTorch's fused attention": trainer("fused", False, False),
        "bfloat16": trainer("fused", True, False),
        "our own attention": trainer("dense", True, False),
        "one step of AdamW for all weights": trainer("dense", True, True),
    }
    table("training, batch 32", training, BATCH, "samples/s")
    for batch in (1, 32):
        ways = ("no cache", "cache, every key", "cache, visible keys")
        calls = {way: sampler(way, batch) for way in ways}
        table(f"sampling, batch {batch}", calls, batch * STREAM.N, "tokens/s")


if __name__ == "__main__":
    main()
