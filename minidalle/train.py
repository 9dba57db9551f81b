"""Training: tokenizer, dVAE, DALL·E, one after the other, from nothing to pictures.  (Chapters 5, 8, 13)

    train(preset("ci"), Path("runs/ci"))

The run's folder ends as a bundle (see `bundle`). Besides it holds log.jsonl with a line per report, pictures
of samples, run.json with the settings, and checkpoints: the same call on the same folder goes on where the
last one was stopped, and ends with the same weights.
"""

import errno
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info
from tqdm.auto import tqdm

from . import checkpoint
from .bundle import Bundle
from .card import run_card
from .dalle import DALLE, IGNORED, DALLEConfig
from .data import Order, Reading, Source, generator_of, source, to_float, to_uint8
from .device import autocast, describe
from .dvae import DVAE, Block, DVAEConfig, code_usage, psnr
from .files import write_atomically, write_json
from .log import Log
from .loop import Batch, Portion, Run, Stage, fit
from .optim import adamw, muon_and_adamw
from .presets import PAPER, DALLETraining, DVAETraining, Preset
from .processes import accelerator
from .schedules import cosine, linear, warmup
from .show import grid
from .tokenizer import Tokenizer
from .tokens import ImageTokens, encode_once
from .transformer import Layer

C = TypeVar("C")  # a configuration
M = TypeVar("M")  # the model it describes

HELD_BACK = 256  # pictures of the test split that reports are made on
ROOMY, LONGEST = 32, 64  # text positions for captions of people; the most that they are raised to
SHOWN = 16  # pictures of a grid of samples
USED_WARNING = 0.25  # warn when fewer than this share of the codes is in use


class Unseen(NamedTuple):
    """Examples that reports are made on: pictures (B, 3, H, W) and their captions."""

    pictures: Tensor
    captions: list[str]


# ------------------------------------------------------------------------------------------- stage 0


def train_tokenizer(
    data: Source, V: int, T: int, path: Path | None = None, captions: int = 20_000
) -> Tokenizer:
    """Learn BPE merges from the first captions of the training split, or read them from ``path`` if they are
    there, else write them to it. Chapter 3.

    T: text positions. Captions that people wrote, who will ask for other things in other words, get at least
    ``ROOMY``, and as many as the longest of them needs, up to ``LONGEST``.
    """
    texts = data.captions(captions)
    there = path is not None and path.exists()
    tokenizer = Tokenizer.load(path, T) if there else Tokenizer.train(texts, V, T)
    if path and not there:
        write_atomically(path, lambda file: file.write(tokenizer.to_json().encode()))
    if data.label != "world":
        longest = max(len(tokenizer.ids(text)) for text in texts)
        tokenizer.T = max(T, ROOMY, min(LONGEST, longest))
    return tokenizer


# ------------------------------------------------------------------------------------------- stage 1


def dvae_stage(
    config: DVAEConfig, t: DVAETraining, data: Source, unseen: Unseen, seed: int
) -> Stage:
    """Minimise the negative ELB; the result is the average of the weights. Chapter 5.

    data: training pictures without end.
    """

    reading = Reading(data)

    def load(positions: range, share: Portion) -> tuple[Tensor]:
        mine = positions[share.mine]
        worker = get_worker_info()  # every n-th step is loaded by the same one of n workers
        before = (
            positions.start // len(positions) // (worker.num_workers if worker else 1) * len(mine)
        )
        return (to_float([example.picture for example in reading.take(mine, before)]),)

    def schedules(step: int) -> dict[str, float]:
        tau = cosine(step, *t.tau, int(t.tau_share * t.steps))
        return {"tau": tau, "beta": cosine(step, 0.0, t.beta, int(t.beta_share * t.steps))}

    def loss(model: DVAE, batch: Batch) -> NamedTuple:
        noise = [generator_of(seed, position) for position in batch.positions]
        return model.elb(
            *batch.tensors, **schedules(batch.step), balance=t.balance, generator=noise
        )

    return Stage(
        name="dVAE",
        model=seeded(seed, DVAE, config).to(memory_format=torch.channels_last),
        settings=t,
        load=load,
        loss=loss,
        optimizer=partial(dvae_optimizer, t),
        rate=lambda step: warmup(step, t.warmup) * cosine(step, 1.0, 0.01, t.steps),
        figures=schedules,
        examine=lambda model: examine_dvae(model, unseen.pictures),
        sample=lambda model: reconstructions(model, unseen),
        blocks=(Block,),
    )


def dvae_optimizer(t: DVAETraining, model: DVAE) -> torch.optim.Optimizer:
    """The paper's AdamW, or Muon for the residual blocks' kernels and AdamW for the rest."""
    if t.muon_lr is None:
        return adamw(model, t.lr, (0.9, 0.999), t.weight_decay)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    kernels = [p for block in blocks for p in block.parameters() if p.ndim == 4]
    return muon_and_adamw(model, kernels, t.muon_lr, t.lr, (0.9, 0.999), t.weight_decay)


@torch.inference_mode()
def examine_dvae(model: DVAE, pictures: Tensor) -> dict[str, float]:
    """PSNR of the hard reconstruction in dB, codes used, perplexity. Warns of a collapse."""
    pictures = pictures.to(next(model.parameters()).device)
    tokens = model.encode(pictures)
    used, perplexity = code_usage(tokens, model.config.K)
    if used < USED_WARNING * model.config.K:
        tqdm.write(f"warning: only {used} of {model.config.K} codes are in use; see chapter 5")
    hard = psnr(pictures, model.decode(tokens)).mean()
    return {"psnr_hard": float(hard), "codes_used": used, "perplexity": perplexity}


@torch.inference_mode()
def reconstructions(model: DVAE, unseen: Unseen) -> Image.Image:
    """Unseen pictures above what is left of them after their tokens."""
    true = unseen.pictures[: SHOWN // 2]
    back = model.decode(model.encode(true.to(next(model.parameters()).device))).cpu()
    captions = unseen.captions[: SHOWN // 2]
    pictures = [*to_uint8(true), *to_uint8(back)]
    words = [*captions, *(f"{each}, from tokens" for each in captions)]
    return grid(pictures, words, "the dVAE: pictures, and what their tokens say", len(true))


# ------------------------------------------------------------------------------------------- stage 2


def dalle_optimizer(t: DALLETraining, model: DALLE) -> torch.optim.Optimizer:
    """The paper's AdamW (0.9, 0.96), or Muon for the layers' matrices and AdamW for the rest."""
    if t.muon_lr is None:
        return adamw(model, t.lr, (0.9, 0.96), t.weight_decay)
    matrices = [p for p in model.transformer.layers.parameters() if p.ndim == 2]
    return muon_and_adamw(model, matrices, t.muon_lr, t.lr, (0.9, 0.96), t.weight_decay)


def dalle_stage(
    config: DALLEConfig,
    t: DALLETraining,
    tokenizer: Tokenizer,
    tokens: ImageTokens,
    examine: Callable[[DALLE], dict[str, float]],
    sample: Callable[[DALLE], Image.Image],
    seed: int,
) -> Stage:
    """Minimise 1/8 text + 7/8 image cross-entropy over (text, image) tokens. Chapter 8."""
    model, order = seeded(seed, DALLE, config), Order(len(tokens), seed)

    def load(positions: range, share: Portion) -> tuple[Tensor, Tensor, Tensor]:
        captions, images = zip(*(tokens[i] for i in order(positions)), strict=True)
        chance = generator_of(seed, positions.start)  # the same in all processes
        text = tokenizer.encode(captions, t.dropout, chance, cut=True)
        targets = (model.targets(text) != IGNORED).sum() / share.parts  # of all processes
        return text[share.mine], torch.stack(images[share.mine]), targets

    return Stage(
        name="DALL·E",
        model=model,
        settings=t,
        load=load,
        loss=lambda model, batch: model.loss(*batch.tensors),
        optimizer=partial(dalle_optimizer, t),
        rate=lambda step: warmup(step, t.warmup) * linear(step, 1.0, 0.0, t.steps),
        examine=examine,
        sample=sample,
        blocks=(Layer,),
    )


@torch.inference_mode()
def examine_dalle(model: DALLE, text: Tensor, image: Tensor) -> dict[str, float]:
    """Losses on unseen examples, in nats per token."""
    device = model.start.device
    with autocast(device):
        loss = model.loss(text.to(device), image.to(device))
    return {"text_nats": float(loss.text_per_token), "image_nats": float(loss.image_per_token)}


# ------------------------------------------------------------------------------------------- the run


def train(
    preset: Preset,
    out: Path,
    seed: int = 0,
    data: str = "world",
    filtered: bool | None = None,
    rank: int = 0,
    workers: int = 0,
) -> Bundle:
    """Train every stage of a preset into the folder ``out``, or go on with that, and return the bundle.

    data, filtered: see `data.source`. rank: of PowerSGD, between several processes; 0 sends gradients as
    they are. workers: processes that load pictures.
    Raises FileExistsError if the folder already holds a trained model, which is never overwritten, or
    files that are no run's; ValueError if it is a run with other settings; OSError or ValueError if there
    are no pictures; ValueError for the preset of the paper, which nobody can train; OSError when the disk is
    full.
    """
    if preset.name == PAPER.name:
        raise ValueError(
            "the preset 'paper' is there to be counted, not trained: minidalle plan --preset paper"
        )
    out, acc = Path(out), accelerator(rank)
    if rank and acc.num_processes == 1:
        raise ValueError(
            f"PowerSGD (rank {rank}) compresses what processes send each other, and there is only one; "
            "start several with accelerate launch, or leave it out"
        )
    if acc.is_main_process:
        check_folder(out)
    about = {"filtered": filtered, "families": preset.families, "where": preset.where}
    learned, test = (
        source(data, preset.dvae.size, split, seed, **about) for split in ("train", "test")
    )
    settings = {"seed": seed, "data": data, "rank": rank, "filtered": filtered}
    settings |= {"preset": asdict(preset), "pictures": [learned.fingerprint, test.fingerprint]}
    if acc.is_main_process:
        open_run(out, settings)
    acc.wait_for_everyone()
    run = Run(
        out, acc, Log(out / "log.jsonl" if acc.is_main_process else None), seed, rank, workers
    )
    try:
        return train_stages(preset, run, learned, test)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(no_space(run)) from error
    finally:
        acc.end_training()


def train_stages(preset: Preset, run: Run, learned: Source, test: Source) -> Bundle:
    """Tokenizer, dVAE, tokens, DALL·E, bundle; what is there already is read."""
    acc, log, seed = run.accelerator, run.log, run.seed
    several = f" in {acc.num_processes} processes" if acc.num_processes > 1 else ""
    log.say(f"training {preset.name!r} on {describe(acc.device)}{several}")
    if acc.is_main_process:
        list_skipped((learned, test), run.out)
    if not (examples := list(islice(test, HELD_BACK))):
        log.say("warning: no picture fell into the test split; reports are of training pictures")
        test, examples = learned, list(islice(learned, HELD_BACK))
    captions = [example.caption for example in examples]
    unseen = Unseen(to_float([example.picture for example in examples]), captions)

    with acc.main_process_first():
        size = preset.dalle.V, preset.dalle.T
        tokenizer = train_tokenizer(learned, *size, path=run.out / "tokenizer.json")
    log.report("tokenizer", 0, V=tokenizer.V, T=tokenizer.T)

    first, second = learned.training(1, seed), learned.training(2, seed)
    dvae = fit(dvae_stage(preset.dvae, preset.dvae_training, first, unseen, seed), run)
    tokens = encode_once(
        dvae,
        second,
        preset.dalle_training.pictures,
        run.out / "tokens",
        acc.process_index,
        acc.num_processes,
        acc.wait_for_everyone,
        log.say,
    )
    cut = sum(len(tokenizer.ids(tokens[i][0])) > tokenizer.T for i in range(len(tokens)))
    log.report("tokens", 0, pictures=len(tokens), captions_cut=cut)
    text = tokenizer.encode(captions, cut=True)
    with torch.no_grad():
        image = dvae.encode(unseen.pictures.to(acc.device))
    asked = sample_captions(test, tokenizer)

    def sample(model: DALLE) -> Image.Image:
        return Bundle(preset.name, tokenizer, dvae, model).draw(asked, seed=seed).grid()

    dalle = fit(
        dalle_stage(
            replace(preset.dalle, V=tokenizer.V, T=tokenizer.T),
            preset.dalle_training,
            tokenizer,
            tokens,
            partial(examine_dalle, text=text, image=image),
            sample,
            seed,
        ),
        run,
    )
    # Round to the 16 bit of the files now, so that the samples are what a reader of the files will get.
    for model in (dvae, dalle):
        model.half().float()
    # A model of other pictures says so in its name: `examine` scores models of the world alone.
    ours = learned.label == "world"
    name = preset.name if ours else f"{preset.name} · {learned.label}"
    bundle = Bundle(name, tokenizer, dvae, dalle)
    if acc.is_main_process:
        bundle.card = run_card(bundle, run.out, seed, learned)
        bundle.draw(asked, seed=seed).save(run.out / "samples.png")
        bundle.save(run.out)
    return bundle


def check_folder(out: Path) -> None:
    """Raise FileExistsError unless the folder is new or a run that is not finished."""
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} already holds a trained model; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").exists():
        raise FileExistsError(f"{out} holds other files; choose a new folder with --out")


def open_run(out: Path, settings: dict) -> None:
    """Make the folder of a new run, or see that it is a run with the same settings.

    Raises ValueError if it is one with others.
    """
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    path = out / "run.json"
    if path.exists():
        compare(path, json.loads(path.read_text(encoding="utf-8")), settings)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)
    (out / "log.jsonl").touch()
    checkpoint.remove_unfinished(out)


def compare(path: Path, before: dict, now: dict, name: str = "") -> None:
    """Raise ValueError that names the first setting in which a run differs from what it was."""
    for key in [*now, *(key for key in before if key not in now)]:
        old, new, where = before.get(key), now.get(key), f"{name}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            compare(path, old, new, f"{where}.")
        elif old != new:
            raise ValueError(
                f"{path}: the run began with {where} = {old!r}, now it is {new!r}; "
                "give the same settings to go on, or another --out"
            )


def no_space(run: Run) -> str:
    """What a full disk means for a run, in one sentence."""
    paths = sorted(run.checkpoints.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    kept = f"the last checkpoint, {paths[-1]}, is intact" if paths else "there is no checkpoint yet"
    return f"the disk of {run.out} is full; {kept}: make space and run the same command again"


def list_skipped(sources: Iterable[Source], out: Path) -> None:
    """Say what each source has and what was left out; all of the latter is listed in skipped.jsonl."""
    lines = []
    for each in sources:
        tqdm.write(each.report())
        lines += [json.dumps(skip._asdict()) + "\n" for skip in each.skipped]
    if lines:
        write_atomically(out / "skipped.jsonl", lambda file: file.write("".join(lines).encode()))


def sample_captions(data: Source, tokenizer: Tokenizer, n: int = SHOWN) -> list[str]:
    """The first captions of a source, each once and short enough for the model."""
    chosen = list(dict.fromkeys(data.captions(4 * n)))[:n]
    for k, caption in enumerate(chosen):
        while len(tokenizer.ids(caption)) > tokenizer.T:
            caption = caption[: len(caption) * 3 // 4]
        chosen[k] = caption
    return chosen


def seeded(seed: int, build: Callable[[C], M], config: C) -> M:
    """Build a model with initial weights that depend on the seed alone; the global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)
