"""What is trained, as the one loop wants it: tokenizer, dVAE, DALL·E, CLIP.  (Chapters 3, 5, 8, 11)"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from tqdm.auto import tqdm

from .clip import CLIP, CLIPConfig, Contrast, contrast, matrices, same_rows
from .dalle import DALLE, DALLEConfig
from .data import FewFamilies, Order, Reading, Source, World, generator_of, to_float, to_uint8
from .device import autocast
from .dvae import DVAE, Block, DVAEConfig, code_usage, collapse, psnr
from .files import write_atomically
from .loop import Batch, Portion, Stage
from .optim import adamw, muon_and_adamw
from .presets import CLIPTraining, DALLETraining, DVAETraining
from .schedules import cosine, linear, warmup
from .show import grid
from .tokenizer import Tokenizer
from .tokens import ImageTokens
from .transformer import Layer

C = TypeVar("C")  # a configuration
M = TypeVar("M")  # the model it describes

ROOMY, LONGEST = 32, 64  # text positions for captions of people; the most that they are raised to
SPARE = 4  # text positions beyond the longest caption of the world, for those of other splits
SHOWN = 16  # pictures of a grid of samples


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

    T: text positions. Captions of the world get more if the longest of them needs more: a preset's number is
    for its own families. Captions that people wrote, who will ask for other things in other words, get at
    least ``ROOMY``, and as many as the longest of them needs, up to ``LONGEST``.
    """
    texts = data.captions(captions)
    there = path is not None and path.exists()
    tokenizer = Tokenizer.load(path, T) if there else Tokenizer.train(texts, V, T)
    if path and not there:
        write_atomically(path, lambda file: file.write(tokenizer.to_json().encode()))
    longest = max(len(tokenizer.ids(text)) for text in texts)
    if data.label != "world":
        tokenizer.T = max(T, ROOMY, min(LONGEST, longest))
    elif longest > T:
        tokenizer.T = longest + SPARE
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
        (x,) = batch.tensors
        noise = [generator_of(seed, position, x.device) for position in batch.positions]
        return model.elb(x, **schedules(batch.step), balance=t.balance, generator=noise)

    return Stage(
        name="dVAE",
        model=seeded(seed, DVAE, config).to(memory_format=torch.channels_last),
        settings=t,
        load=load,
        loss=loss,
        optimizer=partial(dvae_optimizer, t),
        rate=lambda step: (
            warmup(step, t.warmup) * cosine(step, 1.0, t.lr_last, t.lr_steps or t.steps)
        ),
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
    if warning := collapse(used, perplexity, model.config.K):
        tqdm.write(warning)
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
        targets = model.count_targets(text) / share.parts  # of all processes
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


# ------------------------------------------------------------------------------------------- stage 3


def clip_stage(
    config: CLIPConfig,
    t: CLIPTraining,
    tokenizer: Tokenizer,
    dvae: DVAE,
    tokens: ImageTokens,
    source: Source,
    unseen: Unseen,
    seed: int,
) -> Stage:
    """Let pictures and captions of the training split find each other. Chapter 11.

    tokens: of the source's first pictures. Some steps show the pictures themselves, most show what the dVAE
    decodes from the tokens (all steps, if the source is streamed and cannot be asked for its picture i).
    Negatives are the other examples that a process computes at once.
    """
    reading, families = Reading(source), count_families(source)
    parts = [n for n in range(1, min(t.families, families) + 1) if t.batch % n == 0]
    order = FewFamilies(len(tokens), seed, t.batch, families, parts[-1])

    def load(positions: range, share: Portion) -> tuple[Tensor, Tensor]:
        rows, step = order(positions[share.mine]), positions.start // t.batch
        captions, images = zip(*(tokens[row] for row in rows), strict=True)
        text = tokenizer.encode(captions, cut=True)
        if is_decoded(step, t.decoded) or isinstance(source, IterableDataset):
            return text, torch.stack(images)
        return text, to_float([example.picture for example in reading.take(rows, 0)])

    def loss(model: CLIP, batch: Batch) -> Contrast:
        text, pictures = batch.tensors
        if not pictures.is_floating_point():  # image tokens
            with torch.no_grad():
                pictures = dvae.decode(pictures)
        return model.loss(pictures, text)

    text = tokenizer.encode(unseen.captions, cut=True)
    decoded = decode_all(dvae, unseen.pictures)
    return Stage(
        name="CLIP",
        model=seeded(seed, CLIP, config).to(memory_format=torch.channels_last),
        settings=t,
        load=load,
        loss=loss,
        optimizer=partial(clip_optimizer, t),
        rate=lambda step: warmup(step, t.warmup) * cosine(step, 1.0, 0.01, t.steps),
        examine=lambda model: examine_clip(model, decoded, text, families),
        sample=lambda model: nearest_captions(model, decoded, text, unseen.captions),
        blocks=(Layer,),
    )


def clip_optimizer(t: CLIPTraining, model: CLIP) -> torch.optim.Optimizer:
    """CLIP's AdamW (0.9, 0.98), or Muon for the layers' matrices and AdamW for the rest."""
    if t.muon_lr is None:
        return adamw(model, t.lr, (0.9, 0.98), t.weight_decay)
    return muon_and_adamw(model, matrices(model), t.muon_lr, t.lr, (0.9, 0.98), t.weight_decay)


def count_families(source: Source) -> int:
    """How many families the examples take turns in: the world's, else 1."""
    return len(source.families) if isinstance(source, World) else 1


def is_decoded(step: int, share: float) -> bool:
    """Whether a step is one of the evenly spread ``share`` of steps that show decoded pictures."""
    return int((step + 1) * share) > int(step * share)


@torch.inference_mode()
def decode_all(dvae: DVAE, pictures: Tensor) -> Tensor:
    """What is left of pictures (n, 3, S, S) after their tokens, on the dVAE's device."""
    device = next(dvae.parameters()).device
    return torch.cat([dvae.decode(dvae.encode(part.to(device))) for part in pictures.split(64)])


@torch.inference_mode()
def examine_clip(
    model: CLIP, pictures: Tensor, text: Tensor, families: int = 1
) -> dict[str, float]:
    """Share of unseen pictures (n, 3, S, S) that find their caption among all, and among those of their own
    family, which are nearer; 1 / temperature. text: tokens (n, T); example i is of family i mod ``families``.
    """
    images = model.image_features(pictures)
    captions = model.text_features(text := text.to(pictures.device))
    near = []
    for k in range(families):
        own = slice(k, None, families)
        found = contrast(images[own], captions[own], model.scale, same_rows(text[own]))
        near.append(found.captions_found * len(images[own]))
    far = contrast(images, captions, model.scale, same_rows(text))
    return {
        "found": float(far.captions_found),
        "found_near": float(sum(near)) / len(images),
        "scale": float(model.scale),
    }


@torch.inference_mode()
def nearest_captions(
    model: CLIP, pictures: Tensor, text: Tensor, captions: Sequence[str]
) -> Image.Image:
    """Unseen pictures, as the dVAE decodes them, over the caption that CLIP finds nearest among all."""
    shown = pictures[:SHOWN]
    nearest = model.similarity(shown, text.to(shown.device)).argmax(1).tolist()
    title = f"CLIP: the nearest of {len(captions)} captions"
    return grid(to_uint8(shown), [captions[k] for k in nearest], title)


# ------------------------------------------------------------------------------------------- pieces


def seeded(seed: int, build: Callable[[C], M], config: C) -> M:
    """Build a model with initial weights that depend on the seed alone; the global generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)
