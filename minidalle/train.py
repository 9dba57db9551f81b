"""Training: tokenizer, dVAE, DALL·E, one after the other, from nothing to pictures.  (Chapters 5, 8, 13)

    train(preset("ci"), Path("runs/ci"))

The run's folder holds a bundle (see `bundle`), log.jsonl with a line per report, and samples.png.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from .bundle import Bundle
from .dalle import DALLE, DALLEConfig
from .data import World, batches, to_float
from .device import autocast, choose_precision
from .dvae import DVAE, DVAEConfig, code_usage, psnr
from .files import write_atomically
from .presets import PAPER, DALLETraining, DVAETraining, Preset
from .schedules import cosine, linear, warmup
from .show import quiet
from .tokenizer import Tokenizer

C = TypeVar("C")  # a configuration
M = TypeVar("M")  # the model it describes

REPORTS = 10  # log lines a stage
HELD_BACK = 256  # pictures of the test split that reports are made on
USED_WARNING = 0.25  # warn when fewer than this share of the codes is in use


class Log:
    """A progress bar, a JSON-lines file and a printed line for every report."""

    def __init__(self, path: Path):
        self.path = path
        self.started = time.perf_counter()

    def report(self, stage: str, step: int, **figures: float) -> None:
        """Append one line of figures; floats are rounded for the reader, not for the file."""
        seconds = time.perf_counter() - self.started
        line = {"stage": stage, "step": step, "seconds": round(seconds, 1), **figures}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        tqdm.write(f"{seconds:6.0f} s  {stage:<9} step {step:<6} {shown}")

    def bar(self, steps: int, stage: str) -> tqdm:
        """A progress bar over the steps of a stage."""
        return tqdm(range(steps), desc=stage, unit="step", disable=quiet(), leave=False)


# ------------------------------------------------------------------------------------------- stage 0


def train_tokenizer(data: World, V: int, T: int, captions: int = 20_000) -> Tokenizer:
    """Learn BPE merges from the captions of training scenes. Chapter 3."""
    return Tokenizer.train((data.scene(i)[1] for i in range(captions)), V, T)


# ------------------------------------------------------------------------------------------- stage 1


def train_dvae(
    config: DVAEConfig, t: DVAETraining, data: World, test: Tensor, seed: int, log: Log
) -> DVAE:
    """Minimise the negative ELB; return the average of the weights over the last steps. Chapter 5.

    data: training pictures. test: pictures (B, 3, H, W) for the reports. Deterministic given the seed.
    """
    generator = torch.Generator().manual_seed(seed)
    model = seeded(seed, DVAE, config).to(memory_format=torch.channels_last)
    average = AveragedModel(model, multi_avg_fn=partial(move_averages, t.ema))
    optimizer = torch.optim.AdamW(model.parameters(), t.lr, weight_decay=1e-4, fused=True)
    stream = batches(data, t.batch, t.steps)
    for step in log.bar(t.steps, "dVAE"):
        pictures, _, _ = next(stream)
        set_lr(optimizer, t.lr * warmup(step, t.warmup) * cosine(step, 1.0, 0.01, t.steps))
        tau = cosine(step, *t.tau, int(t.tau_share * t.steps))
        beta = cosine(step, 0.0, t.beta, int(t.beta_share * t.steps))
        with autocast(test.device):
            elb = model.elb(pictures, tau, beta, t.balance, generator)
        optimizer.zero_grad()
        elb.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), t.clip)
        optimizer.step()
        average.update_parameters(model)
        if is_report(step, t.steps):
            figures = examine_dvae(average.module, test)
            log.report(
                "dVAE", step + 1, train_nll_per_value=elb.nll_per_value.item(), tau=tau, **figures
            )
    return average.module.eval()


def move_averages(decay: float, averages: list[Tensor], values: list[Tensor], n: Tensor) -> None:
    """Move exponential averages, in place, towards values that are the n-th of their kind. The decay grows
    with n up to its final value, so that the random initial weights are soon forgotten."""
    now = min(decay, (1 + int(n)) / (10 + int(n)))
    torch._foreach_lerp_(averages, values, 1 - now)


@torch.inference_mode()
def examine_dvae(model: DVAE, pictures: Tensor) -> dict[str, float]:
    """PSNR of the hard reconstruction in dB, codes used, perplexity. Warns of a collapse."""
    tokens = model.encode(pictures)
    used, perplexity = code_usage(tokens, model.config.K)
    if used < USED_WARNING * model.config.K:
        tqdm.write(f"warning: only {used} of {model.config.K} codes are in use; see chapter 5")
    hard = psnr(pictures, model.decode(tokens)).mean()
    return {"psnr_hard": float(hard), "codes_used": used, "perplexity": perplexity}


# ------------------------------------------------------------------------------------------- stage 2


@torch.no_grad()
def encode_pictures(dvae: DVAE, data: World, pictures: int) -> tuple[list[str], Tensor]:
    """Captions and image tokens (pictures, N) of the first examples; the dVAE is not touched again.

    In 32 bit, as when pictures are judged: rounding would move some tokens to a neighbour.
    """
    captions, tokens = [], []
    stream = batches(data, 64, -(-pictures // 64))
    bar = tqdm(total=pictures, desc="tokens", unit="picture", disable=quiet(), leave=False)
    with bar:
        for batch, words, _ in stream:
            tokens.append(dvae.encode(batch))
            captions += words
            bar.update(len(batch))
    return captions[:pictures], torch.cat(tokens)[:pictures]


def optimizers(model: DALLE, t: DALLETraining) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW with the paper's (0.9, 0.96) for everything else.

    The paper used AdamW throughout. Muon (Jordan et al. 2024) reaches the same loss in fewer steps at our
    size, which is what counts on two cores.
    """
    matrices = [p for p in model.transformer.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=t.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=t.lr, betas=(0.9, 0.96), weight_decay=0.0),
    ]


def train_dalle(
    config: DALLEConfig,
    t: DALLETraining,
    train_tokens: tuple[Tensor, Tensor],
    test_tokens: tuple[Tensor, Tensor],
    seed: int,
    log: Log,
) -> DALLE:
    """Minimise 1/8 text + 7/8 image cross-entropy over (text, image) tokens. Chapter 8."""
    order = torch.Generator().manual_seed(seed)
    model = seeded(seed, DALLE, config)
    both = optimizers(model, t)
    text, image = train_tokens
    began = time.perf_counter()
    for step in log.bar(t.steps, "DALL·E"):
        rate = warmup(step, t.warmup) * linear(step, 1.0, 0.0, t.steps)
        set_lr(both[0], t.muon_lr * rate)
        set_lr(both[1], t.lr * rate)
        rows = torch.randint(len(text), (t.batch,), generator=order)
        with autocast(text.device):
            loss = model.loss(text[rows], image[rows])
        model.zero_grad()
        loss.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), t.clip)
        for optimizer in both:
            optimizer.step()
        if is_report(step, t.steps):
            speed = (step + 1) * t.batch / (time.perf_counter() - began)
            figures = examine_dalle(model, *test_tokens)
            log.report("DALL·E", step + 1, **figures, samples_per_second=speed)
    return model.eval()


@torch.inference_mode()
def examine_dalle(model: DALLE, text: Tensor, image: Tensor) -> dict[str, float]:
    """Losses on unseen scenes, in nats per token."""
    with autocast(text.device):
        loss = model.loss(text, image)
    return {"text_nats": float(loss.text_per_token), "image_nats": float(loss.image_per_token)}


# ------------------------------------------------------------------------------------------- the run


def train(preset: Preset, out: Path, seed: int = 0) -> Bundle:
    """Train every stage of a preset into the folder ``out`` and return the bundle.

    Raises FileExistsError if the folder already holds a trained model, which is never overwritten, or
    files that are no run's; ValueError for the preset of the paper, which nobody can train.
    """
    if preset.name == PAPER.name:
        raise ValueError(
            "the preset 'paper' is there to be counted, not trained: minidalle plan --preset paper"
        )
    out = Path(out)
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} already holds a trained model; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "log.jsonl").exists():
        raise FileExistsError(f"{out} holds other files; choose a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "log.jsonl", lambda file: None)  # a new run, a new log
    log = Log(out / "log.jsonl")
    dtype, reason = choose_precision(torch.device("cpu"))
    tqdm.write(f"training {preset.name!r} on the CPU in {str(dtype)[6:]}: {reason}")

    size = preset.dvae.size
    data = World(preset.families, size, "train", seed, preset.where)
    test = World(preset.families, size, "test", seed, preset.where)
    unseen = [test[i] for i in range(HELD_BACK)]
    unseen_pictures = to_float([example.picture for example in unseen])

    tokenizer = train_tokenizer(data, preset.dalle.V, preset.dalle.T)
    log.report("tokenizer", 0, V=tokenizer.V)
    dvae = train_dvae(preset.dvae, preset.dvae_training, data, unseen_pictures, seed, log)
    captions, image = encode_pictures(dvae, data, preset.dalle_training.pictures)
    log.report("tokens", 0, pictures=len(captions))
    with torch.no_grad():
        unseen_tokens = dvae.encode(unseen_pictures)
    dalle = train_dalle(
        replace(preset.dalle, V=tokenizer.V),
        preset.dalle_training,
        (tokenizer.encode(captions), image),
        (tokenizer.encode([example.caption for example in unseen]), unseen_tokens),
        seed,
        log,
    )
    # Round to the 16 bit of the files now, so that the samples are what a reader of the files will get.
    for model in (dvae, dalle):
        model.half().float()
    bundle = Bundle(preset.name, tokenizer, dvae, dalle)
    bundle.card = run_card(bundle, out, seed)
    drawing = bundle.draw(sample_captions(test), seed=seed)
    drawing.save(out / "samples.png")
    bundle.save(out)
    return bundle


def sample_captions(data: World, n: int = 16) -> list[str]:
    """Captions of the first scenes of a source, each once."""
    return list(dict.fromkeys(data.scene(i)[1] for i in range(4 * n)))[:n]


def run_card(bundle: Bundle, out: Path, seed: int) -> str:
    """A model card: where the bundle comes from, and the last figures of each stage of its log."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = {line["stage"]: line for line in lines}
    sizes = {"dVAE": bundle.dvae, "DALL·E": bundle.dalle}
    counts = [f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in sizes.items()]
    figures = [
        f"- {stage}: " + ", ".join(f"{k} {v:.4g}" for k, v in line.items() if k != "stage")
        for stage, line in last.items()
    ]
    return "\n".join(
        [
            f"# minidalle · {bundle.name}",
            "",
            "Weights for the package beside the book *minidalle*. Licence: CC BY 4.0.",
            "",
            "## Provenance",
            "",
            f"- command: `minidalle train --preset {bundle.name} --seed {seed} --out …`",
            f"- commit: {commit()}",
            f"- machine: {machine()}",
            f"- minutes: {lines[-1]['seconds'] / 60:.1f}",
            f"- parameters: {', '.join(counts)}",
            "- data: the training split of `minidalle.world`, drawn on the fly, and nothing else",
            "",
            "## Last figures of each stage",
            "",
            "psnr_hard, codes, perplexity and nats per token are of scenes of the test split.",
            "",
            *figures,
            "",
        ]
    )


def commit() -> str:
    """The commit of the code that runs, marked if files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    ask = partial(subprocess.run, cwd=here, capture_output=True, text=True, check=False)
    try:
        if ask(["git", "ls-files", "--error-unmatch", Path(__file__).name]).returncode:
            return "unknown"  # an installed copy, perhaps inside somebody else's checkout
        name = ask(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = ask(["git", "status", "--porcelain", "--", "."]).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return "unknown"
    return (name or "unknown") + (" with local changes" if name and changed else "")


def machine() -> str:
    """Architecture, threads, precision, Python and PyTorch in one line."""
    dtype, _ = choose_precision(torch.device("cpu"))
    system = f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    return f"{system}, {str(dtype)[6:]}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def seeded(seed: int, build: Callable[[C], M], config: C) -> M:
    """Build a model with initial weights that depend on the seed alone; the global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The same learning rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def is_report(step: int, steps: int) -> bool:
    """Whether the step ends one of the ``REPORTS`` parts of a stage."""
    return (step + 1) * REPORTS // steps != step * REPORTS // steps
