"""One training loop for every model, on one process or on many, that goes on where it was stopped.
(Chapters 5, 8, 13)

A `Stage` says what is trained: a model, its loss, its examples, its optimiser. `fit` does the rest. Which
examples a step sees and which noise it adds are functions of the seed and the step alone, so that neither an
interruption nor the number of processes changes them (but for streamed shards, which are dealt out to the
processes and their workers); what cannot be computed again (weights, averages, optimiser, generators) is in
the checkpoints.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from . import checkpoint
from .checkpoint import Checkpoint, slug
from .data import load_ahead
from .device import autocast, keep_freed_memory
from .files import write_atomically
from .log import Log
from .optim import Average
from .powersgd import PowerSGD
from .presets import Training
from .processes import (
    place,
    random_states,
    set_random_states,
    shard_as_asked,
    stoppable,
    whole,
)

REPORTS = 10  # log lines a stage


class Batch(NamedTuple):
    """Examples of one step. positions: where they stand among all that the run sees.

    tensors: their first dimension is the examples'; a scalar among them is of the whole step.
    """

    step: int
    positions: Sequence[int]
    tensors: tuple[Tensor, ...]

    def split(self, parts: int) -> "list[Batch]":
        """The same examples in equal parts."""
        size = len(self.positions) // parts
        slices = [slice(k * size, (k + 1) * size) for k in range(parts)]
        return [
            Batch(self.step, self.positions[s], tuple(t[s] if t.ndim else t for t in self.tensors))
            for s in slices
        ]

    def to(self, device: torch.device) -> "Batch":
        """Its tensors on a device."""
        return self._replace(tensors=tuple(t.to(device) for t in self.tensors))


class Portion(NamedTuple):
    """What a process takes of a step's examples: ``mine`` of them, in ``parts`` over all processes."""

    mine: slice
    parts: int


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the loop must know of a model to train it.

    name: in the log and in the names of files. settings: steps, batch, clip, …
    load: the positions of a step's examples among all that the run sees, and the portion of them to make
    tensors of. loss: model and batch → a named tuple of scalars, the first of which is minimised.
    optimizer: for the model's parameters, with each group's highest learning rate. rate: what to multiply
    that by, by step. figures: more of a step for the log, e.g. its τ.
    examine: figures of a model on unseen examples. sample: a picture that shows what it can do.
    blocks: classes of its repeated parts, which FSDP gathers one at a time.
    """

    name: str
    model: nn.Module
    settings: Training
    load: Callable[[range, Portion], tuple[Tensor, ...]]
    loss: Callable[[nn.Module, Batch], NamedTuple]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    rate: Callable[[int], float]
    figures: Callable[[int], dict[str, float]] = lambda step: {}
    examine: Callable[[nn.Module], dict[str, float]]
    sample: Callable[[nn.Module], Image.Image]
    blocks: tuple[type[nn.Module], ...] = ()


@dataclass(frozen=True)
class Run:
    """Where and how all stages of a run are trained.

    out: its folder. rank: of PowerSGD; 0 sends gradients as they are. workers: processes that load examples.
    """

    out: Path
    accelerator: Accelerator
    log: Log
    seed: int
    rank: int = 0
    workers: int = 0

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"


class Objective(nn.Module):
    """A model and its loss as one module, for the wrappers of many processes work in ``forward``."""

    def __init__(self, stage: Stage):
        super().__init__()
        self.model = stage.model
        self.loss = stage.loss

    def forward(self, batch: Batch) -> NamedTuple:
        with autocast(batch.tensors[0].device):
            return self.loss(self.model, batch)


class Steps:
    """What this process needs for each step."""

    def __init__(self, stage: Stage, index: int, processes: int):
        batch, parts = stage.settings.batch, processes * stage.settings.accumulate
        if batch % parts:
            raise ValueError(
                f"a batch of {batch} does not divide into {parts} parts ({processes} processes, "
                f"{stage.settings.accumulate} parts each); change batch or accumulate"
            )
        size = batch // processes
        self.portion = Portion(slice(index * size, (index + 1) * size), parts)
        self.stage = stage

    def load(self, step: int) -> Batch:
        """Its examples of one step."""
        batch = self.stage.settings.batch
        positions = range(step * batch, (step + 1) * batch)
        tensors = self.stage.load(positions, self.portion)
        return Batch(step, positions[self.portion.mine], tensors)


class Loop:
    """The state of a stage while it trains."""

    def __init__(self, stage: Stage, run: Run):
        self.stage, self.run, self.accelerator = stage, run, run.accelerator
        self.step = 0
        self.device = self.accelerator.device
        stage.model.to(self.device)
        self.whole = copy.deepcopy(stage.model).requires_grad_(False).eval()
        objective, optimizer = Objective(stage).train(), stage.optimizer(stage.model)
        shard_as_asked(self.accelerator, [each.__name__ for each in stage.blocks], stage.model)
        self.wrapped, self.optimizer = self.accelerator.prepare(objective, optimizer)
        self.model = self.accelerator.unwrap_model(self.wrapped).model
        self.compression = self._compression()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        t = stage.settings
        self.average = Average(self.model.parameters(), t.ema, t.ema_every) if t.ema else None

    def _compression(self) -> PowerSGD | None:
        if not self.run.rank:
            return None
        if not isinstance(self.wrapped, nn.parallel.DistributedDataParallel):
            raise ValueError("PowerSGD needs DDP; leave out either it or --use_fsdp")
        compression = PowerSGD(self.model, self.run.rank, self.run.seed)
        self.wrapped.register_comm_hook(compression.state, compression.hook)
        return compression

    def train(self) -> None:
        """From the current step to the last one."""
        t, log = self.stage.settings, self.run.log
        batches = self.batches()
        bar = log.bar(self.stage.name, t.steps, self.step, t.batch)
        self.first, self.began = self.step, time.perf_counter()
        with stoppable() as stop, bar:
            while self.step < t.steps:
                losses = self.advance(next(batches))
                bar.update(t.batch)
                if is_report(self.step - 1, t.steps):
                    self.report(losses)
                stopped = self._anyone(stop.is_set())
                if stopped or self.step % t.save_every == 0 or self.step == t.steps:
                    self.save()
                if stopped:
                    log.say(f"{self.stage.name}: stopped after step {self.step} of {t.steps}")
                    raise KeyboardInterrupt

    def batches(self) -> Iterator[Batch]:
        """This process's examples of every step that is left."""
        acc, t = self.accelerator, self.stage.settings
        steps = Steps(self.stage, acc.process_index, acc.num_processes)
        workers = self.run.workers
        # Each worker loads the steps that it always has, also after a resumption between them.
        again = self.step % workers if workers else 0
        return islice(
            load_ahead(steps.load, range(self.step - again, t.steps), workers), again, None
        )

    def advance(self, batch: Batch) -> list[NamedTuple]:
        """One step of the optimiser; returns the losses of the parts."""
        t, parts = self.stage.settings, batch.to(self.device).split(self.stage.settings.accumulate)
        for group, highest in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = highest * self.stage.rate(self.step)
        self.optimizer.zero_grad()
        losses = []
        for k, part in enumerate(parts):
            last = k == len(parts) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                losses.append(self.wrapped(part))
                self.accelerator.backward(losses[-1][0] / len(parts))
        self.accelerator.clip_grad_norm_(self.wrapped.parameters(), t.clip)
        self.optimizer.step()
        self.step += 1
        if self.average:
            self.average.update(self.step, self.model.parameters())
        return losses

    def report(self, losses: list[NamedTuple]) -> None:
        """A line of the log and a picture of samples, of the model as it would be returned now."""
        step, stage = self.step, self.stage
        names = losses[0]._fields
        parts = torch.stack([torch.stack([x.detach().float() for x in loss]) for loss in losses])
        means = self.accelerator.reduce(parts.mean(0), "mean").tolist()
        model = self.result()
        if not self.accelerator.is_main_process:
            return
        figures = {f"train_{name}": mean for name, mean in zip(names, means, strict=True)}
        figures |= stage.figures(step - 1) | {"rate": stage.rate(step - 1)} | stage.examine(model)
        if self.compression:
            figures["traffic_saved"] = self.compression.saved()
        seconds = time.perf_counter() - self.began
        speed = (step - self.first) * stage.settings.batch / seconds
        self.run.log.report(stage.name, step, **figures, samples_per_second=speed)
        sheet = stage.sample(model)
        path = self.run.out / f"samples-{slug(stage.name)}-{step}.png"
        write_atomically(path, lambda file: sheet.save(file, "PNG"))

    def result(self) -> nn.Module:
        """The model as it would be returned now: all of it, with the averages where there are some."""
        tensors = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        if self.average:
            names = [name for name, _ in self.model.named_parameters()]
            tensors |= zip(names, map(whole, self.average.values), strict=True)
        with torch.no_grad():
            for name, tensor in self.whole.state_dict().items():
                tensor.copy_(tensors[name])
        return self.whole

    # --------------------------------------------------------------------------- checkpoints

    def save(self) -> None:
        """Write a checkpoint; all processes take part, the first one writes."""
        tensors, facts = self.tensors(), self.facts()
        if self.accelerator.is_main_process:
            checkpoint.save(self.run.checkpoints, self.stage.name, self.step, tensors, facts)
        self.accelerator.wait_for_everyone()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint holds as tensors; those of FSDP are put together."""
        found = {f"weights/{name}": whole(t) for name, t in self.model.state_dict().items()}
        for name, p in self.model.named_parameters():
            for key, value in self.optimizer.state[p].items():
                found[f"optimizer/{name}/{key}"] = whole(value)
        if self.average:
            names = [name for name, _ in self.model.named_parameters()]
            values = map(whole, self.average.values)
            found |= {f"average/{name}": v for name, v in zip(names, values, strict=True)}
        own = {f"random/{device}": state for device, state in random_states(self.device).items()}
        if self.compression:
            own |= {f"powersgd/{name}": t for name, t in self.compression.tensors().items()}
        gather = self.accelerator.gather  # of every process, one row each
        return found | {name: gather(t.to(self.device)[None]) for name, t in own.items()}

    def facts(self) -> dict:
        """Everything that a checkpoint holds as JSON."""
        facts = {"log": self.run.log.lines, "seconds": self.run.log.seconds}
        if self.average:
            facts["averaged"] = self.average.n
        if self.accelerator.scaler:
            facts["scaler"] = self.accelerator.scaler.state_dict()
        if self.compression:
            facts["powersgd"] = self.compression.facts()
        return facts

    def load(self, saved: Checkpoint) -> None:
        """Take over the state of a checkpoint."""
        self.step, facts = saved.step, saved.facts
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in saved.tensors.items():
            kind, _, rest = name.partition("/")
            groups.setdefault(kind, {})[rest] = tensor
        own = self.model.state_dict()
        for name, tensor in groups["weights"].items():
            place(tensor, own[name])
        parameters = dict(self.model.named_parameters())
        fused = {id(p) for g in self.optimizer.param_groups if g.get("fused") for p in g["params"]}
        for name, tensor in groups.get("optimizer", {}).items():
            name, _, key = name.rpartition("/")
            p = parameters[name]
            if key == "step":  # PyTorch counts on the CPU, but for fused optimisers
                state = tensor.to(p.device if id(p) in fused else "cpu")
            else:
                place(tensor, state := torch.zeros_like(p, dtype=tensor.dtype, requires_grad=False))
            self.optimizer.state[p][key] = state
        if self.average:
            for name, value in zip(parameters, self.average.values, strict=True):
                place(groups["average"][name], value)
            self.average.n = facts["averaged"]
        if self.accelerator.scaler and "scaler" in facts:  # else it was begun on another device
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self._load_own(groups, facts)
        self.run.log.restore(facts["log"], facts["seconds"])

    def _load_own(self, groups: dict[str, dict[str, Tensor]], facts: dict) -> None:
        """What each process has for itself; a process that was not there before starts anew."""
        index = self.accelerator.process_index
        if index < len(next(iter(groups["random"].values()))):
            set_random_states({name: rows[index] for name, rows in groups["random"].items()})
        if self.compression and "powersgd" in facts:
            rows = groups.get("powersgd", {})
            same = all(len(each) == self.accelerator.num_processes for each in rows.values())
            mine = {name: r[index].to(self.device) for name, r in rows.items()} if same else {}
            self.compression.load(mine, facts["powersgd"])

    def _anyone(self, flag: bool) -> bool:
        """Whether any process has the flag: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(int(flag), device=self.device)) > 0)


def fit(stage: Stage, run: Run) -> nn.Module:
    """Train a stage from its newest good checkpoint to its last step; return the finished model.

    Raises KeyboardInterrupt, after a checkpoint, when it was asked to stop (Ctrl-C), and OSError when the
    disk is full; the same call then goes on from the last checkpoint.
    """
    keep_freed_memory()
    log = run.log
    device = run.accelerator.device
    with torch.random.fork_rng(
        [device] if device.type == "cuda" else []
    ):  # the caller's stay as they are
        torch.manual_seed(run.seed + run.accelerator.process_index)
        loop = Loop(stage, run)
        saved = checkpoint.newest(run.checkpoints, stage.name, log.say)
        if saved:
            loop.load(saved)
            log.say(f"{stage.name}: going on from step {saved.step} of {stage.settings.steps}")
        else:
            log.begin(stage.name)
        log.open_board(stage.name, loop.step)
        try:
            loop.train()
        finally:
            log.close_board()
            run.accelerator.free_memory()
        return loop.result()


# ------------------------------------------------------------------------------------------- pieces


def is_report(step: int, steps: int) -> bool:
    """Whether the step ends one of the ``REPORTS`` parts of a stage."""
    return (step + 1) * REPORTS // steps != step * REPORTS // steps
