"""Short training runs for the tests: a preset of a few steps, and what two runs must have in common.

As a program it is a run of its own process, or of several:  python tests/runs.py OUT [words …]
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import minidalle.checkpoint
import minidalle.data
import minidalle.device
import minidalle.loop
import minidalle.train
from minidalle.checkpoint import found, read
from minidalle.data import Example, World
from minidalle.optim import shards
from minidalle.presets import preset

CLOCK = {"seconds", "samples_per_second"}  # what a log and a checkpoint have from the clock
CI = preset("ci")
QUICK = replace(
    CI,
    dvae=replace(CI.dvae, width=16, decoder_input=16),
    dalle=replace(CI.dalle, D=32, H=2, L=2),
    dvae_training=replace(CI.dvae_training, steps=12, batch=4, warmup=2, save_every=3),
    dalle_training=replace(
        CI.dalle_training,
        steps=12,
        batch=4,
        warmup=2,
        pictures=40,
        save_every=3,
        ema=0.9,
        ema_every=2,
    ),
    clip=replace(CI.clip, D=16, H=2, E=8, width=4),
    clip_training=replace(CI.clip_training, steps=12, batch=4, warmup=2, save_every=3),
)


def lines(out: Path) -> list[dict]:
    """The log of a run without what comes from the clock."""
    texts = (out / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(text).items() if k not in CLOCK} for text in texts]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit the same weights, averages, optimisers, generators, log, files and samples."""
    assert lines(one) == lines(other)
    for stage in ("dVAE", "DALL·E", "CLIP"):
        paths = found(one / "checkpoints", stage)
        assert [p.name for p in paths] == [p.name for p in found(other / "checkpoints", stage)]
        for path in paths:
            assert_same_checkpoint(path, other / "checkpoints" / path.name)
    files = sorted(path.name for path in one.glob("*.safetensors"))
    assert files == sorted(path.name for path in other.glob("*.safetensors"))
    for name in (*files, "tokenizer.json", "config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    pictures = sorted(path.name for path in one.glob("*.png"))
    assert pictures == sorted(path.name for path in other.glob("*.png"))
    for name in pictures:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """Two checkpoints with equal tensors and equal facts, but for the clock."""
    a, b = read(one), read(other)
    assert a.step == b.step and a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), (one.name, name)
    for facts in (a.facts, b.facts):
        del facts["seconds"]
        facts["log"] = [{k: v for k, v in x.items() if k not in CLOCK} for x in facts["log"]]
    assert a.facts == b.facts


class Watched(World):
    """A world that writes down which training pictures this process drew."""

    path: Path

    def __getitem__(self, index: int) -> Example:
        if self.split == "train":
            with self.path.open("a") as file:
                file.write(f"{index}\n")
        return super().__getitem__(index)


def launch(
    out: Path, *words: str, processes: int = 1, check: bool = True, how: str = "--multi_gpu"
):
    """Run this file, in one process or in several that accelerate starts; the finished process."""
    command = [sys.executable]
    if processes > 1:  # --multi_gpu is accelerate's word for several processes, on CPUs too
        command += ["-m", "accelerate.commands.launch", *how.split(), "--num_machines", "1"]
        command += ["--num_processes", str(processes), "--mixed_precision", "no"]
        command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(Path(__file__)), str(out), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert not check or ended.returncode == 0, ended.stderr[-3000:]
    return ended


def die_while_writing(n: int) -> None:
    """Plant: the process is killed in the middle of its n-th checkpoint's writing."""
    ours, count = minidalle.checkpoint.write_atomically, 0

    def write(path, fill):
        nonlocal count
        count += 1

        def half(file):
            if count == n:
                fill(HalfFile(file))
                os.kill(os.getpid(), signal.SIGKILL)
            fill(file)

        ours(path, half)

    minidalle.checkpoint.write_atomically = write


def die_at_random(seed: int) -> None:
    """Plant: the process is killed a few steps after it began, at any moment of a step or of what follows:
    while it computes, reports, draws samples or writes."""
    ours, chance = minidalle.loop.Loop.advance, random.Random(seed)
    last, steps = chance.randrange(1, 8), 0

    def advance(loop, batch):
        nonlocal steps
        steps += 1
        if steps == last:
            kill = partial(os.kill, os.getpid(), signal.SIGKILL)
            threading.Timer(chance.uniform(0, 0.2), kill).start()
        return ours(loop, batch)

    minidalle.loop.Loop.advance = advance


def note_what_is_held(path: Path) -> None:
    """Plant: write down how many numbers of each stage's weights this process holds."""
    ours = minidalle.loop.Loop.train

    def train(loop):
        held = sum(shard.numel() for shard in shards(loop.model.parameters()))
        with path.open("a") as file:
            file.write(f"{held}\n")
        ours(loop)

    minidalle.loop.Loop.train = train


class HalfFile:
    """Takes in half of what is written to it."""

    def __init__(self, file):
        self.file = file

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        self.file.flush()


def main(out: str, *words: str) -> None:
    """words: f32, adamw, kernels, parts, rank=R, die=N (see `die_while_writing`), kill=SEED, watch, held,
    clip. Without the last there is no CLIP, whose loss is about what one process computes at once.
    """
    me = os.environ.get("RANK", "0")
    options = dict(word.split("=") for word in words if "=" in word)
    dvae, dalle = QUICK.dvae_training, QUICK.dalle_training
    dvae = replace(dvae, balance=0.0)  # else what a process sees at once would matter
    if "kernels" not in words:
        dvae = replace(dvae, muon_lr=None)  # Muon rounds to 16 bit, and codes turn on a hair
    if "adamw" in words:
        dalle = replace(dalle, muon_lr=None, lr=3e-3, weight_decay=4.5e-2)
    if "parts" in words:
        dvae, dalle = replace(dvae, accumulate=2), replace(dalle, accumulate=2)
    if "f32" in words:
        minidalle.device.choose_precision = lambda device: (torch.float32, "the test asks for it")
    if "die" in options and me == "0":
        die_while_writing(int(options["die"]))
    if "kill" in options:
        die_at_random(int(options["kill"]))
    small = replace(QUICK, dvae_training=dvae, dalle_training=dalle)
    if "clip" not in words:
        small = replace(small, clip=None, clip_training=None)
    if "held" in words:
        note_what_is_held(Path(f"{out}.held{me}"))
    if "watch" in words:
        Watched.path = Path(f"{out}.seen{me}")
        minidalle.data.World = Watched
    minidalle.train.train(small, Path(out), 3, rank=int(options.get("rank", 0)))


if __name__ == "__main__":
    main(*sys.argv[1:])
