"""Training: tokenizer, dVAE, DALL·E, one after the other, from nothing to pictures.  (Chapters 5, 8, 13)

    train(preset("ci"), Path("runs/ci"))

The run's folder ends as a bundle (see `bundle`). Besides it holds log.jsonl with a line per report, pictures
of samples, run.json with the settings, and checkpoints: the same call on the same folder goes on where the
last one was stopped, and ends with the same weights.
"""

import errno
import json
import platform
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from . import checkpoint
from .bundle import Bundle
from .dalle import DALLE, IGNORED, DALLEConfig
from .data import Source, World, caption, generator_of, to_float, to_uint8
from .device import autocast, choose_precision, describe
from .dvae import DVAE, Block, DVAEConfig, code_usage, psnr
from .files import write_atomically, write_json
from .log import Log
from .loop import Batch, Run, Share, Stage, accelerator, fit
from .optim import adamw, muon_and_adamw
from .presets import DALLETraining, DVAETraining, Preset
from .schedules import cosine, linear, warmup
from .show import grid
from .tokenizer import Tokenizer
from .tokens import ImageTokens, encode_once
from .transformer import Layer

C = TypeVar("C")  # a configuration
M = TypeVar("M")  # the model it describes

HELD_BACK = 256  # pictures of the test split that reports are made on
SHOWN = 16  # pictures of a grid of samples
USED_WARNING = 0.25  # warn when fewer than this share of the codes is in use


class Unseen(NamedTuple):
    """Examples that reports are made on: pictures (B, 3, H, W) and their captions."""

    pictures: Tensor
    captions: list[str]


# ------------------------------------------------------------------------------------------- stage 0


def train_tokenizer(data: Source, V: int, T: int, captions: int = 20_000) -> Tokenizer:
    """Learn BPE merges from the captions of training examples. Chapter 3."""
    n = min(captions, len(data))
    return Tokenizer.train((caption(data, i) for i in range(n)), V, T)


# ------------------------------------------------------------------------------------------- stage 1


def dvae_stage(
    config: DVAEConfig, t: DVAETraining, data: Source, unseen: Unseen, seed: int
) -> Stage:
    """Minimise the negative ELB; the result is the average of the weights. Chapter 5."""

    def load(indices: list[int], share: Share) -> tuple[Tensor]:
        return (to_float([data[i].picture for i in indices[share.mine]]),)

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
        n=len(data),
        load=load,
        loss=loss,
        optimizer=lambda model: adamw(model, t.lr, (0.9, 0.999), t.weight_decay),
        rate=lambda step: warmup(step, t.warmup) * cosine(step, 1.0, 0.01, t.steps),
        figures=schedules,
        examine=lambda model: examine_dvae(model, unseen.pictures),
        sample=lambda model: reconstructions(model, unseen),
        blocks=(Block,),
    )


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
    model = seeded(seed, DALLE, config)

    def load(indices: list[int], share: Share) -> tuple[Tensor, Tensor, Tensor]:
        captions, images = zip(*(tokens[i] for i in indices), strict=True)
        text = tokenizer.encode(captions)
        targets = (model.targets(text) != IGNORED).sum() / share.parts  # of all processes
        return text[share.mine], torch.stack(images[share.mine]), targets

    return Stage(
        name="DALL·E",
        model=model,
        settings=t,
        n=len(tokens),
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
    data: Source | None = None,
    test: Source | None = None,
    rank: int = 0,
    workers: int = 0,
) -> Bundle:
    """Train every stage of a preset into the folder ``out``, or go on with that, and return the bundle.

    data, test: other sources than the preset's world. rank: of PowerSGD, between several processes; 0 sends
    gradients as they are. workers: processes that load pictures.
    Raises FileExistsError if the folder already holds a trained model, which is never overwritten, or
    files that are no run's; ValueError if it is a run with other settings; OSError when the disk is full.
    """
    out, where = Path(out), preset.where
    data = data or World(preset.families, preset.dvae.size, "train", seed, where)
    test = test or World(preset.families, preset.dvae.size, "test", seed, where)
    settings = {"seed": seed, "rank": rank, "preset": asdict(preset)}
    settings |= {"data": data.fingerprint, "test": test.fingerprint}
    acc = accelerator(rank)
    if rank and acc.num_processes == 1:
        raise ValueError(
            f"PowerSGD (rank {rank}) compresses what processes send each other, and there is only one; "
            "start several with accelerate launch, or leave it out"
        )
    if acc.is_main_process:
        open_run(out, settings)
    acc.wait_for_everyone()
    run = Run(
        out, acc, Log(out / "log.jsonl" if acc.is_main_process else None), seed, rank, workers
    )
    try:
        return train_stages(preset, run, data, test)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(no_space(run)) from error
    finally:
        acc.end_training()


def train_stages(preset: Preset, run: Run, data: Source, test: Source) -> Bundle:
    """Tokenizer, dVAE, tokens, DALL·E, bundle; what is there already is read."""
    acc, log, seed = run.accelerator, run.log, run.seed
    several = f" in {acc.num_processes} processes" if acc.num_processes > 1 else ""
    log.say(f"training {preset.name!r} on {describe(acc.device)}{several}")
    examples = [test[i] for i in range(min(HELD_BACK, len(test)))]
    captions = [example.caption for example in examples]
    unseen = Unseen(to_float([example.picture for example in examples]), captions)

    path = run.out / "tokenizer.json"
    if acc.is_main_process and not path.exists():
        text = train_tokenizer(data, preset.dalle.V, preset.dalle.T).to_json()
        write_atomically(path, lambda file: file.write(text.encode()))
    acc.wait_for_everyone()
    tokenizer = Tokenizer.load(path, preset.dalle.T)
    log.report("tokenizer", 0, V=tokenizer.V)

    dvae = fit(dvae_stage(preset.dvae, preset.dvae_training, data, unseen, seed), run)  # frozen
    tokens = encode_once(
        dvae,
        data,
        preset.dalle_training.pictures,
        run.out / "tokens",
        mine=lambda k: k % acc.num_processes == acc.process_index,
        wait=acc.wait_for_everyone,
        say=log.say,
    )
    log.report("tokens", 0, pictures=len(tokens))
    text = tokenizer.encode(captions)
    with torch.no_grad():
        image = dvae.encode(unseen.pictures.to(acc.device))
    asked = sample_captions(test)

    def sample(model: DALLE) -> Image.Image:
        return Bundle(preset.name, tokenizer, dvae, model).draw(asked, seed=seed).grid()

    dalle = fit(
        dalle_stage(
            replace(preset.dalle, V=tokenizer.V),
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
    bundle = Bundle(preset.name, tokenizer, dvae, dalle)
    if acc.is_main_process:
        bundle.card = run_card(bundle, run.out, seed, data)
        bundle.draw(asked, seed=seed).save(run.out / "samples.png")
        bundle.save(run.out)
    return bundle


def open_run(out: Path, settings: dict) -> None:
    """Make the folder of a new run, or see that it is a run with the same settings.

    Raises FileExistsError or ValueError, see `train`.
    """
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} already holds a trained model; choose another --out")
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    path = out / "run.json"
    if path.exists():
        compare(path, json.loads(path.read_text(encoding="utf-8")), settings)
    elif out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds other files; choose a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / "log.jsonl").touch()
    checkpoint.remove_unfinished(out / "checkpoints")
    write_json(path, settings)


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


def sample_captions(data: Source, n: int = SHOWN) -> list[str]:
    """Captions of the first scenes of a source, each once."""
    return list(dict.fromkeys(caption(data, i) for i in range(min(4 * n, len(data)))))[:n]


def run_card(bundle: Bundle, out: Path, seed: int, data: Source) -> str:
    """A model card: where the bundle comes from, and the last figures of each stage of its log."""
    world = "the training split of `minidalle.world`, drawn on the fly, and nothing else"
    origin = world if isinstance(data, World) else f"{len(data)} captioned pictures"
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
            f"- data: {origin}",
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
