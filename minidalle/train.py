"""Training: tokenizer, dVAE, DALL·E, CLIP, from nothing to pictures.  (Chapters 5, 8, 11, 13)

    train(preset("ci"), Path("runs/ci"))

The run's folder ends as a bundle (see `bundle`). Besides it holds log.jsonl with a line per report, pictures
of samples, run.json with the settings and the commits of the code, and checkpoints: the same call on the same
folder goes on where the last one was stopped, and ends with the same weights. Streamed shards are dealt out
to processes and their workers, so their numbers belong to the settings there.
"""

import errno
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import MISSING, asdict, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import IterableDataset
from tqdm.auto import tqdm

from . import checkpoint
from .bundle import Bundle
from .card import commit, run_card
from .clip import CLIP
from .dalle import DALLE
from .data import Scope, Source, World, source, to_float
from .device import describe
from .dvae import DVAE
from .files import write_atomically, write_json
from .log import Log
from .loop import Run, fit
from .presets import PAPER, PRESETS, Preset, Training
from .processes import accelerator
from .stages import (
    SHOWN,
    Unseen,
    clip_stage,
    dalle_stage,
    dvae_stage,
    examine_dalle,
    train_tokenizer,
)
from .tokenizer import Tokenizer
from .tokens import ImageTokens, encode_once

HELD_BACK = 256  # pictures of the test split that reports are made on


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
    if isinstance(learned, IterableDataset):  # shards are dealt out to them
        settings |= {"processes": acc.num_processes, "workers": workers}
    if acc.is_main_process:
        open_run(out, settings, at_default(preset))
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
    """Tokenizer, dVAE, tokens, DALL·E, CLIP, bundle; what is there already is read."""
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
    if isinstance(first, World) and preset.dvae_more:
        first = first.with_more(preset.dvae_more)
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
        run.workers,
    )
    counts = Counter(tokens.captions())
    cut = sum(n for text, n in counts.items() if len(tokenizer.ids(text)) > tokenizer.T)
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
    clip = train_clip(preset, run, tokenizer, dvae, tokens, second, unseen)
    # Round to the 16 bit of the files now, so that the samples are what a reader of the files will get.
    for model in filter(None, (dvae, dalle, clip)):
        model.half().float()
    part = Scope(preset.families, preset.where) if learned.label == "world" else None
    bundle = Bundle(name_of(preset, learned), tokenizer, dvae, dalle, clip=clip, world=part)
    if acc.is_main_process:
        bundle.card = run_card(bundle, run.out, seed, learned)
        bundle.draw(asked, seed=seed).save(run.out / "samples.png")
        bundle.save(run.out)
    return bundle


def name_of(preset: Preset, learned: Source) -> str:
    """The preset's, and of a model of other pictures than the preset's these, too."""
    if learned.label != "world":
        return f"{preset.name} · {learned.label}"
    known = PRESETS.get(preset.name, preset)
    ours = known.families == preset.families
    return preset.name if ours else f"{preset.name} · {', '.join(preset.families)}"


def train_clip(
    preset: Preset,
    run: Run,
    tokenizer: Tokenizer,
    dvae: DVAE,
    tokens: ImageTokens,
    pictures: Source,
    unseen: Unseen,
) -> CLIP | None:
    """The last stage, where the preset has one: a CLIP that chooses among what the others draw."""
    if preset.clip is None or preset.clip_training is None:
        return None
    config = replace(preset.clip, V=tokenizer.V, T=tokenizer.T)
    learning = preset.clip_training, tokenizer, dvae, tokens, pictures, unseen
    return fit(clip_stage(config, *learning, run.seed), run)


def check_folder(out: Path) -> None:
    """Raise FileExistsError unless the folder is new or a run that is not finished."""
    if (out / "config.json").exists():
        raise FileExistsError(f"{out} already holds a trained model; choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / "run.json").exists():
        raise FileExistsError(f"{out} holds other files; choose a new folder with --out")


def open_run(out: Path, settings: dict, usual: Collection[str]) -> None:
    """Make the folder of a new run, or see that it is a run with the same settings; usual: see `compare`.

    The commits of the code are noted now, while it is the code that runs: an hour later others may have come.
    Raises ValueError if it is a run with other settings.
    """
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    path, commits = out / "run.json", []
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        commits = before.pop("commits", commits)
        compare(path, before, settings, usual)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, {**settings, "commits": list(dict.fromkeys([*commits, commit()]))})
    (out / "log.jsonl").touch()
    checkpoint.remove_unfinished(out)


def compare(path: Path, before: dict, now: dict, usual: Collection[str], name: str = "") -> None:
    """Raise ValueError that names the first setting in which a run differs from what it was.

    usual: settings that have their defaults, as "preset.clip_training.ema". A run that began before there was
    such a setting goes on: its default is what the code did then.
    """
    for key in [*now, *(key for key in before if key not in now)]:
        old, new, where = before.get(key), now.get(key), f"{name}{key}"
        if isinstance(old, dict) and isinstance(new, dict):
            compare(path, old, new, usual, f"{where}.")
        elif old != new and (key in before or where not in usual):
            raise ValueError(
                f"{path}: the run began with {where} = {old!r}, now it is {new!r}; "
                "give the same settings to go on, or another --out"
            )


def at_default(part: Preset | Training, name: str = "preset") -> set[str]:
    """The settings of a preset, and of its training parts, that have their defaults."""
    found = set()
    for each in fields(part):
        value, where = getattr(part, each.name), f"{name}.{each.name}"
        made = each.default_factory is not MISSING
        if value == (each.default_factory() if made else each.default):
            found.add(where)
        if isinstance(value, Training):
            found |= at_default(value, where)
    return found


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
