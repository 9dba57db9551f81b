"""How fast is it here: ``minidalle bench``.  (Chapters 7, 9 and 13)

Every figure is the median of repeated runs in one process, so that figures can be compared with each other;
the same machine on another day gives other numbers. Shares and exponents travel better than seconds.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from .counts import saved_bytes
from .dalle import DALLE, DALLEConfig
from .data import World, to_float
from .device import autocast, choose_attention, choose_precision, keep_freed_memory
from .dvae import DVAE
from .generate import Sampling, choose, generate, uniforms
from .presets import CI, TINY
from .transformer import FORMS, attend, attend_blocks, geometry

SECONDS = 1.0  # how long each figure is measured at least
ROUNDS = 3  # of peak and training
MATRIX = 1024  # rows and columns of the matrix product that stands for the peak
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
BATCH = 32  # of training
BATCHES = (1, 32, 128)  # of sampling
# A caption of 16 tokens and 8×8 image tokens; layers of about 1, 4 and 11 M parameters.
STREAM = DALLEConfig(V=512, T=16, K=512, h=8, w=8, D=256, H=4, L=5, kernel=5)
SIZES = {
    "1 M": replace(STREAM, D=128),
    "4 M": STREAM,
    "11 M": replace(STREAM, D=384, H=6, L=6),
}
# Streams on which the forms of attention are compared, and samples a step; names are text + image tokens.
STREAMS = {
    "16 + 64": (STREAM, 32),
    "80 + 256": (replace(STREAM, T=80, h=16, w=16), 8),
    "80 + 1024": (replace(STREAM, T=80, h=32, w=32), 2),
}
GRIDS = (8, 16, 32, 64)  # rows and columns of the square grids that masks are measured on
PREFIX, HEADS, HEAD, KERNEL = 18, 4, 32, 11  # of these measurements; 11 is the paper's kernel


class Figure(NamedTuple):
    """One line of the table: what was measured, where in it, how much, of what."""

    what: str
    setting: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"{self.what:<22}{self.setting:<28}{self.value:>12,.4g} {self.unit}"


def seconds(call: Callable[[], object], at_least: float = SECONDS) -> float:
    """Median time of a call, after one to warm up; waits for the GPU where there is one."""
    call()
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=at_least).median


# ------------------------------------------------------------------------------------- the machine


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """GFLOP/s of a product of two square matrices: what everything else is measured against."""
    a = torch.randn(MATRIX, MATRIX, device=device).to(dtype)
    return 2 * MATRIX**3 / seconds(lambda: a @ a) / 1e9


# ---------------------------------------------------------------------------------------- the dVAE


def dvae_speed(preset, device: torch.device) -> list[Figure]:
    """Pictures/s of a preset's dVAE: a training step without its optimiser, encoding, decoding."""
    model = DVAE(preset.dvae).to(device, memory_format=torch.channels_last)
    batch = preset.dvae_training.batch
    world = World(preset.families, preset.dvae.size, where=preset.where)
    x = to_float([world[i].picture for i in range(batch)]).to(device)
    with torch.no_grad():
        tokens = model.encode(x)

    def step() -> None:
        with autocast(device):
            loss = model.elb(x, 1.0, 0.0, 0.1).loss
        loss.backward()

    def no_grad(call: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(call)

    calls = {
        "training": step,
        "encoding": no_grad(lambda: model.encode(x)),
        "decoding": no_grad(lambda: model.decode(tokens)),
    }
    return [
        Figure(f"dVAE {preset.name}", f"{name}, batch {batch}", batch / seconds(call), "pictures/s")
        for name, call in calls.items()
    ]


# ---------------------------------------------------------------------------------------- training


def training_speed(
    config: DALLEConfig, device: torch.device, batch: int, form: str | None = None
) -> tuple[float, float]:
    """Samples/s of whole training steps (forward, backward, AdamW), and the GFLOP/s that they mean.

    form: of attention, one of `transformer.FORMS`; None for the one that `choose_attention` takes.
    Counted as usual: 6 FLOPs for every weight of a matrix and position that it multiplies, in layers and
    heads. Scores of attention, of which masks leave a part, and embeddings do not count.
    """
    model = DALLE(config).to(device)
    model.transformer.form = form
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=True)
    text, image = random_tokens(config, batch, device)

    def step() -> None:
        with autocast(device):
            loss = model.loss(text, image).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    rate = batch / seconds(step)
    c = model.transformer.config
    layers = sum(p.numel() for p in model.transformer.layers.parameters() if p.ndim == 2)
    heads = config.T * model.text_head.weight.numel() + config.N * model.image_head.weight.numel()
    return rate, rate * 6 * (layers * c.length + heads) / 1e9


def share_of_peak(
    config: DALLEConfig, device: torch.device, batch: int, precision: torch.dtype
) -> tuple[float, float]:
    """Samples/s of `training_speed`, and how much of the peak its FLOPs are, in per cent. Peak and training
    are measured in turns, since a machine that others use is fast in one second and slow in the next."""
    rates, shares = [], []
    for _ in range(ROUNDS):
        peak = matmul_peak(precision, device)
        rate, flops = training_speed(config, device, batch)
        rates.append(rate)
        shares.append(100 * flops / peak)
    return median(rates), median(shares)


def form_speeds(device: torch.device) -> list[Figure]:
    """Training with each form of attention on a short, a middling and a long stream: what
    `choose_attention` rests on."""
    figures = []
    for name, (config, batch) in STREAMS.items():
        for form in FORMS:
            rate, _ = training_speed(config, device, batch, form)
            figures.append(Figure("form of attention", f"{form}, {name}", rate, "samples/s"))
    return figures


def random_tokens(config: DALLEConfig, B: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Text tokens (B, T) and image tokens (B, N) of no meaning."""
    text = torch.randint(config.V, (B, config.T), device=device)
    return text, torch.randint(config.K, (B, config.N), device=device)


# ---------------------------------------------------------------------------------------- sampling


@torch.inference_mode()
def generate_uncached(model: DALLE, text: Tensor, generator: torch.Generator) -> Tensor:
    """What `generate` does for one picture a caption, without a cache: the whole stream for each token."""
    u = uniforms(len(text), model.config.N, generator).to(text.device)
    image = text.new_zeros(len(text), model.config.N)
    for k in range(model.config.N):
        image[:, k] = choose(model(text, image)[1][:, k], u[:, k], Sampling())
    return image


def sampling_speed(batch: int, cached: bool, device: torch.device) -> float:
    """Image tokens/s of the 4 M model."""
    model = DALLE(STREAM).to(device).eval()
    text, _ = random_tokens(STREAM, batch, device)
    draw = generate if cached else generate_uncached
    return batch * STREAM.N / seconds(lambda: draw(model, text, torch.Generator().manual_seed(0)))


# ------------------------------------------------------------------------------------------- masks


class Cost(NamedTuple):
    """Of one attention, forward and backward: seconds, and bytes kept for the backward pass."""

    seconds: float
    bytes: int


def attention_cost(kind: str, side: int, device: torch.device) -> Cost:
    """Of one layer's attention over 18 text positions and side×side image tokens, batch 1.

    "full" runs in the dense form, the sparse kinds in the structured form.
    """
    form, call = ("dense", attend) if kind == "full" else ("structured", attend_blocks)
    allowed = geometry(form, kind, PREFIX, side, side, KERNEL, device)
    shape = (1, HEADS, PREFIX + side**2, HEAD)
    q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
    kept = saved_bytes(lambda: call(q, k, v, allowed))
    return Cost(seconds(lambda: call(q, k, v, allowed).sum().backward()), kept)


def exponent(sides: tuple[int, ...], costs: list[float]) -> float:
    """The p of cost ∝ N^p that fits best, N = side², by least squares of the logarithms."""
    x, y = [math.log(side**2) for side in sides], [math.log(cost) for cost in costs]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mx) ** 2 for a in x)


def mask_costs(device: torch.device) -> list[Figure]:
    """Time and memory of each kind of layer on every grid; exponents from 16×16 on."""
    figures, last = [], {}
    for kind in ("full", "row", "column", "convolution"):
        costs = [attention_cost(kind, side, device) for side in GRIDS]
        for side, cost in zip(GRIDS, costs, strict=True):
            where = f"{kind}, {side}×{side}"
            figures.append(Figure("attention, time", where, 1e3 * cost.seconds, "ms"))
            figures.append(Figure("attention, memory", where, cost.bytes / 2**20, "MiB"))
        for what in ("seconds", "bytes"):
            p = exponent(GRIDS[1:], [getattr(cost, what) for cost in costs[1:]])
            figures.append(Figure(f"exponent of {what}", f"{kind}, 16×16 to 64×64", p, "in N"))
        last[kind] = costs[-1].seconds
    for kind in ("row", "column", "convolution"):
        ratio = last["full"] / last[kind]
        figures.append(Figure("faster than full", f"{kind}, 64×64", ratio, "times"))
    return figures


# --------------------------------------------------------------------------------------- everything


def bench(device: torch.device, echo: Callable[[str], object] = print) -> list[Figure]:
    """Measure everything, a line at a time; a few minutes on two cores. Chapter 13."""
    keep_freed_memory()  # as training does
    figures: list[Figure] = []

    def add(*more: Figure) -> None:
        figures.extend(more)
        for each in more:
            echo(str(each))

    precision, reason = choose_precision(device)
    echo(f"{device} in {str(precision)[6:]}: {reason}")
    echo("attention: " + choose_attention(device, STREAM.T + 2 + STREAM.N)[1])
    for dtype in dict.fromkeys((torch.float32, torch.bfloat16, precision)):
        peak = matmul_peak(dtype, device)
        add(Figure("matmul peak", f"{str(dtype)[6:]}, {MATRIX}³", peak, "GFLOP/s"))
    for preset in (CI, TINY):
        add(*dvae_speed(preset, device))
    for name, config in SIZES.items():
        rate, share = share_of_peak(config, device, BATCH, precision)
        add(Figure("DALL·E training", f"{name}, batch {BATCH}", rate, "samples/s"))
        add(Figure(f"share of {SHORT[precision]} peak", name, share, "%"))
    add(*form_speeds(device))
    for batch in BATCHES:
        speed = {cached: sampling_speed(batch, cached, device) for cached in (True, False)}
        add(
            Figure("sampling", f"4 M, batch {batch}, cached", speed[True], "tokens/s"),
            Figure("sampling", f"4 M, batch {batch}, uncached", speed[False], "tokens/s"),
            Figure("gain of the cache", f"batch {batch}", speed[True] / speed[False], "times"),
        )
    add(*mask_costs(device))
    return figures
