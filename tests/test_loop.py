"""The loop on a toy: what a step does, what is decayed and averaged, and how a run goes on."""

import errno
import io
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import psutil
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from runs import assert_same_checkpoint, lines
from torch import Tensor, nn

import minidalle.checkpoint as room_of_checkpoints
import minidalle.device as device_room
import minidalle.log as room_of_logs
import minidalle.loop as room
import minidalle.optim as optim
from minidalle import processes
from minidalle.checkpoint import Checkpoint, found, read
from minidalle.dalle import DALLE
from minidalle.data import Order
from minidalle.dvae import DVAE
from minidalle.loop import Batch, Run, Stage, fit
from minidalle.optim import (
    Average,
    Muon,
    Together,
    adamw,
    decayed,
    move_averages,
    muon_and_adamw,
    orthogonal,
)
from minidalle.presets import Training, preset
from minidalle.stages import dalle_optimizer, dvae_optimizer

STEPS = Training(
    steps=20, batch=4, lr=1e-2, warmup=2, clip=1.0, weight_decay=0.1, ema=0.9, save_every=4
)
DATA = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


class Toy(nn.Module):
    """A bit of everything: an embedding, a gain, matrices, and dropout, which draws random numbers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.norm = nn.LayerNorm(6)
        self.hidden = nn.Linear(6, 6)
        self.out = nn.Linear(6, 6)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += 1
        x = self.norm(x + self.embedding((x[:, 0] > 0).long()))
        return self.out(F.dropout(self.hidden(x).relu(), 0.2, self.training))


class Loss(NamedTuple):
    loss: Tensor
    spread: Tensor


def toy_loss(model: Toy, batch: Batch) -> Loss:
    (x,) = batch.tensors
    y = model(x)
    return Loss((y - x).square().mean(), y.std())


ORDER = Order(len(DATA), 0)


def load(positions: range, share: room.Portion) -> tuple[Tensor]:
    return (DATA[ORDER(positions[share.mine])],)


def stage(settings: Training = STEPS, **changes) -> Stage:
    """A stage that trains the toy."""
    torch.manual_seed(1)
    model = Toy()
    first = {
        "name": "Toy",
        "model": model,
        "settings": settings,
        "load": load,
        "loss": toy_loss,
        "optimizer": lambda model: muon_and_adamw(
            model, [model.hidden.weight], 0.01, settings.lr, (0.9, 0.99), settings.weight_decay
        ),
        "rate": lambda step: 1 - step / settings.steps,
        "examine": lambda model: {"error": (model(DATA) - DATA).square().mean().item()},
        "sample": lambda model: Image.new("RGB", (2, 2)),
    }
    return Stage(**{**first, **changes})


def run(out: Path, seed: int = 0, **changes) -> Run:
    """A run in a folder."""
    out.mkdir(exist_ok=True)
    (out / "log.jsonl").touch()
    return Run(out, processes.accelerator(0), room_of_logs.Log(out / "log.jsonl"), seed, **changes)


@pytest.fixture(autouse=True)
def _keyboard():
    """Ctrl-C does what it does in a terminal, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a toy's run that nothing interrupted."""
    out = tmp_path_factory.mktemp("toy") / "whole"
    fit(stage(), run(out))
    return out


def assert_same(out: Path, whole: Path) -> None:
    """The same log, and the same last checkpoints bit for bit."""
    assert lines(out) == lines(whole)
    paths = found(out / "checkpoints", "Toy")
    assert [p.name for p in paths] == [p.name for p in found(whole / "checkpoints", "Toy")]
    for path in paths:
        assert_same_checkpoint(path, whole / "checkpoints" / path.name)


# ------------------------------------------------------------------------------------- what is done


def test_a_step_is_what_the_formulas_say(tmp_path):
    """One step of the loop: the mean gradient of the parts, clipped, times the scheduled rate."""
    settings = replace(STEPS, steps=1, accumulate=2, clip=0.05, ema=0.0)
    one = stage(
        settings, optimizer=lambda m: torch.optim.SGD(m.parameters(), 2.0), rate=lambda s: 0.5
    )
    expected = stage(settings).model.train()
    indices = ORDER(range(4))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for k in range(2):
            batch = Batch(0, range(2), (DATA[indices[2 * k : 2 * k + 2]],))
            with device_room.autocast(torch.device("cpu")):
                (toy_loss(expected, batch).loss / 2).backward()
    norm = nn.utils.clip_grad_norm_(expected.parameters(), 0.05)
    assert norm > 0.05, "the clipping matters"
    torch.optim.SGD(expected.parameters(), 1.0).step()
    found = fit(one, run(tmp_path / "run")).state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found[name], tensor, msg=name)


def test_parts_of_a_batch_add_up_to_the_whole(tmp_path, monkeypatch):
    """Without dropout, four parts one after the other train as the batch at once does."""
    monkeypatch.setattr(device_room, "choose_precision", lambda device: (torch.float32, "planted"))
    results = []
    for parts in (1, 4):
        each = stage(
            replace(STEPS, accumulate=parts),
            loss=lambda model, batch: toy_loss(model.eval(), batch),
            optimizer=lambda model: adamw(model, 1e-2, (0.9, 0.99), 0.1),
        )
        results.append(fit(each, run(tmp_path / str(parts))).hidden.weight)
    assert (results[0] - stage().model.hidden.weight).abs().max() > 0.05
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=0)


def test_decay_is_for_matrices_alone():
    """Gains, biases, embeddings and the two starts have none; by name, so that a new kind is noticed."""
    assert decayed(Toy()) == ["hidden.weight", "out.weight"]
    model = DALLE(replace(preset("ci").dalle, D=32, H=2, L=1))
    layer = "transformer.layers.0"
    assert sorted(decayed(model)) == [
        "image_head.weight",
        "text_head.weight",
        *(
            f"{layer}.{name}.weight"
            for name in ("attention.out", "attention.qkv", "mlp.0", "mlp.2")
        ),
    ]


def test_decay_reaches_what_decays_and_nothing_else():
    """Gradients of 0: AdamW shrinks matrices by lr · decay and leaves the rest bit for bit."""
    model = Toy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    adamw(model, 0.1, (0.9, 0.96), 0.5).step()
    for name, p in model.named_parameters():
        factor = 0.95 if name in ("hidden.weight", "out.weight") else 1.0
        torch.testing.assert_close(p.detach(), before[name] * factor, msg=name)


def test_the_papers_optimiser_is_a_setting():
    """muon_lr None: AdamW (0.9, 0.96), eps 1e-8, decay 4.5e-2 on every matrix (paper, appendix B)."""
    t = replace(preset("ci").dalle_training, muon_lr=None, weight_decay=4.5e-2)
    model = DALLE(replace(preset("ci").dalle, D=32, H=2, L=1))
    optimizer = dalle_optimizer(t, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    ids = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"]) == ((0.9, 0.96), 1e-8)
    decay, none = optimizer.param_groups
    assert (decay["weight_decay"], none["weight_decay"]) == (4.5e-2, 0.0)
    assert len(decay["params"]) == 6


def test_muon_trains_the_dvaes_blocks_and_nothing_else():
    """The kernels of the residual blocks; with muon_lr None the paper's AdamW has everything."""
    t = preset("ci").dvae_training
    model = DVAE(preset("ci").dvae)
    blocks = {id(p) for n, p in model.named_parameters() if "_path" in n and p.ndim == 4}
    groups = dvae_optimizer(t, model).param_groups
    muon = {id(p) for group in groups if "betas" not in group for p in group["params"]}
    assert muon == blocks and len(blocks) > 8
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    plain = dvae_optimizer(replace(t, muon_lr=None), model)
    assert isinstance(plain, torch.optim.AdamW)
    assert plain.param_groups[0]["betas"] == (0.9, 0.999)


def test_frozen_parameters_are_in_no_optimiser():
    """What does not require gradients is in no group."""
    model = Toy()
    model.out.requires_grad_(False)
    ids = [id(p) for g in adamw(model, 1.0, (0.9, 0.99), 0.1).param_groups for p in g["params"]]
    assert id(model.out.weight) not in ids and id(model.out.bias) not in ids and len(ids) == 5


def test_optimisers_together_do_what_they_do_apart():
    """Same weights as two separate ones, also after a wrapper has replaced groups and state."""
    models = [Toy(), Toy()]
    models[1].load_state_dict(models[0].state_dict())
    apart = [parts(models[0]) for parts in (muon_part, adamw_part)]
    together = Together([muon_part(models[1]), adamw_part(models[1])])
    for step in range(4):
        for model in models:
            for p in model.parameters():
                p.grad = torch.sin(p.detach() * 3 + step)
        for optimizer in (*apart, together):
            for group in optimizer.param_groups:
                group["lr"] = 0.1 / (step + 1)
            optimizer.step()
        together.load_state_dict(together.state_dict())
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def muon_part(model: Toy) -> torch.optim.Optimizer:
    return torch.optim.Muon([model.hidden.weight], lr=0.1)


def adamw_part(model: Toy) -> torch.optim.Optimizer:
    return torch.optim.AdamW([model.out.weight, model.norm.weight], lr=0.1)


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_muon_is_the_librarys(shape, monkeypatch):
    """The same steps as `torch.optim.Muon` on matrices, alike or not, up to the rounding of 16 bit."""
    torch.manual_seed(0)
    monkeypatch.setattr(
        optim, "choose_precision", lambda device: (torch.bfloat16, "as the library's")
    )
    shapes = [shape, (5, 7), shape]
    ours, theirs = ([torch.nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    optimizers = Muon(ours, lr=0.1), torch.optim.Muon(theirs, lr=0.1, weight_decay=0.0)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_muon_takes_a_kernel_as_a_matrix(memory):
    """A kernel (n_out, n_in, k, k) moves as the matrix (n_out, n_in·k·k), however it lies in memory."""
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.randn(5, 4, 3, 3).to(memory_format=memory))
    matrix = torch.nn.Parameter(kernel.detach().flatten(1).clone())
    kernel.grad = torch.randn(5, 4, 3, 3)
    matrix.grad = kernel.grad.flatten(1)
    for p in (kernel, matrix):
        Muon([p], lr=0.1).step()
    assert torch.equal(kernel.flatten(1), matrix)


def test_orthogonal_evens_out_the_singular_values():
    """All singular values come near 1, though they begin two orders of magnitude apart."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(12, 12))[0] for _ in range(2))
    before = torch.logspace(-1, 1, 12)
    after = torch.linalg.svdvals(orthogonal((u @ before.diag() @ v.T)[None]).float())
    assert after.min() > 0.6 and after.max() < 1.3


def test_muon_refuses_vectors():
    """A bias has no directions to even out."""
    with pytest.raises(ValueError, match=r"not for shape \(3,\)"):
        Muon([torch.nn.Parameter(torch.zeros(3))], lr=0.1)


def test_averages_forget_the_beginning():
    """After n values the average is near their mean, not near the first."""
    average, ema = torch.tensor(100.0), 0.999
    for n in range(1, 200):
        move_averages(ema, [average], [torch.tensor(1.0)], n)
    assert abs(average - 1) < 0.01


def test_averages_are_taken_every_so_many_steps():
    """The paper averages every 25th step of the transformer."""
    average = Average([torch.zeros(1)], decay=0.5, every=25)
    for step in range(1, 101):
        average.update(step, [torch.full((1,), float(step))])
    expected = torch.tensor(25.0)
    for n, step in ((1, 50), (2, 75), (3, 100)):
        expected = expected + (step - expected) * (1 - min(0.5, (1 + n) / (10 + n)))
    torch.testing.assert_close(average.values[0], expected[None])
    assert average.n == 4


def test_the_result_is_the_average(whole):
    """With ema, what is returned, examined and sampled are the averages, with the model's buffers."""
    saved = read(found(whole / "checkpoints", "Toy")[-1])
    model = Toy().eval()
    weights = {n: saved.tensors[f"average/{n}"] for n, _ in model.named_parameters()}
    model.load_state_dict({**weights, "seen": saved.tensors["weights/seen"]})
    assert lines(whole)[-1]["error"] == stage().examine(model)["error"]
    assert model.seen == STEPS.steps
    assert not torch.equal(weights["out.weight"], saved.tensors["weights/out.weight"])


def test_every_example_is_seen_once_a_pass(tmp_path):
    """50 examples, 4 a step: 25 steps are two passes, each in another order."""
    seen = []

    def watch(positions: range, share: room.Portion) -> tuple[Tensor]:
        seen.extend(ORDER(positions[share.mine]))
        return load(positions, share)

    fit(stage(replace(STEPS, steps=25), load=watch), run(tmp_path / "run"))
    assert sorted(seen[:50]) == sorted(seen[50:]) == list(range(50))
    assert seen[:50] != seen[50:] and seen[:50] != sorted(seen[:50])


def test_the_processes_shares_make_up_the_batch():
    """Whatever their number: disjoint, in order, together the examples of one process."""
    alone = [room.Steps(stage(), 0, 1).load(step) for step in range(20)]
    for n in (2, 4):
        shares = [room.Steps(stage(), index, n) for index in range(n)]
        for step, batch in enumerate(alone):
            parts = [share.load(step) for share in shares]
            assert torch.equal(torch.cat([p.tensors[0] for p in parts]), batch.tensors[0])
            assert [p for part in parts for p in part.positions] == list(batch.positions)
    with pytest.raises(ValueError, match="batch of 4 does not divide into 3 parts"):
        room.Steps(stage(), 0, 3)


def test_workers_change_nothing(tmp_path, whole):
    """Examples loaded by two other processes: the same run."""
    fit(stage(), run(tmp_path / "run", workers=2))
    assert_same(tmp_path / "run", whole)


def test_precision_is_chosen_with_a_reason(monkeypatch):
    """bfloat16 where a GPU has it, else float16, whose loss must be scaled; a CPU may have neither."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert device_room.choose_precision(gpu)[0] == dtype
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert device_room.choose_precision(cpu) == (
        torch.float32,
        "bfloat16 would not be faster on this CPU",
    )
    assert device_room.describe(cpu) == (
        "the CPU (PyTorch sees no CUDA GPU) in float32 (bfloat16 would not be faster on this CPU)"
    )


FAULTS = """
import resource, sys, torch
from minidalle.device import keep_freed_memory

def step():
    for _ in range(4):
        torch.ones(8, 1024, 1024)

if sys.argv[1] == "kept":
    keep_freed_memory()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the switch is glibc's")
def test_freed_memory_stays():
    """Without, each of twenty tensors of 32 MiB costs a page fault for every page, 4 KiB or a huge one."""
    faults = {}
    for how in ("given back", "kept"):
        command = [sys.executable, "-c", FAULTS, how]
        faults[how] = int(subprocess.run(command, check=True, capture_output=True).stdout)
    assert faults["given back"] >= 20 * 16 and faults["kept"] < faults["given back"] / 2


def test_training_keeps_freed_memory_where_it_can(tmp_path, monkeypatch):
    """Asked for before the first step; a C library without the switch is no reason to stop."""
    monkeypatch.setattr(device_room.ctypes, "CDLL", lambda name: object())
    assert device_room.keep_freed_memory() is False
    refusing = SimpleNamespace(mallopt=lambda what, value: 0)
    monkeypatch.setattr(device_room.ctypes, "CDLL", lambda name: refusing)
    assert device_room.keep_freed_memory() is False
    asked = []
    monkeypatch.setattr(room, "keep_freed_memory", lambda: asked.append("kept"))
    fit(stage(), run(tmp_path / "run"))
    assert asked == ["kept"]


def test_float16_is_scaled(monkeypatch):
    """Where float16 was chosen, the loop's engine has a scaler of the loss; elsewhere none."""
    asked = {}
    monkeypatch.setattr(processes, "Accelerator", lambda **settings: asked.update(settings))
    for dtype, mixed in ((torch.float16, "fp16"), (torch.bfloat16, "no"), (torch.float32, "no")):
        monkeypatch.setattr(processes, "choose_precision", lambda device, d=dtype: (d, "planted"))
        processes.accelerator(0)
        assert asked["mixed_precision"] == mixed


# ------------------------------------------------------------------------------------ what is shown


def test_the_bar_tells_speed_and_time_left(tmp_path, monkeypatch):
    """Samples a second and the time that is left; it starts where a resumed run does."""
    monkeypatch.setattr(room_of_logs, "quiet", lambda: False)
    log = run(tmp_path / "run").log
    bar = log.bar("Toy", steps=20, done=5, batch=4)
    bar.file = bar.fp = io.StringIO()
    bar.update(4)
    shown = bar.format_meter(**{**bar.format_dict, "elapsed": 2.0})
    bar.close()
    assert "24/80" in shown and "2.00sample/s" in shown and "<00:28" in shown


def test_every_report_has_a_picture_and_a_line_for_tensorboard(whole):
    """samples-STAGE-STEP.png beside the log; TensorBoard's file holds the same figures."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = [line["step"] for line in lines(whole)]
    assert len(steps) == room.REPORTS
    assert sorted(path.name for path in whole.glob("*.png")) == sorted(
        f"samples-toy-{step}.png" for step in steps
    )
    board = EventAccumulator(str(whole / "tensorboard" / "toy"))
    board.Reload()
    for name in ("train_loss", "error"):
        events = [(event.step, event.value) for event in board.Scalars(name)]
        expected = [(line["step"], pytest.approx(line[name])) for line in lines(whole)]
        assert events == expected


def test_without_tensorboard_there_is_no_board(tmp_path, monkeypatch, whole):
    """It is an extra: where it is not installed the run is the same."""
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(stage(), run(tmp_path / "run"))
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert_same(tmp_path / "run", whole)


def test_reports_are_evenly_spread():
    """Ten of any number of steps, the last one among them."""
    for steps in (10, 12, 99, 1200):
        ends = [step for step in range(steps) if room.is_report(step, steps)]
        assert len(ends) == room.REPORTS and ends[-1] == steps - 1


# --------------------------------------------------------------------------------- how it goes on


class Planted(Exception):
    """Stands for whatever ends a process."""


def failing_at(step: int):
    """A loader that fails when it is asked for the examples of a step."""

    def fail(positions: range, share: room.Portion) -> tuple[Tensor]:
        fail.asked += 1
        if fail.asked > step:
            raise Planted
        return load(positions, share)

    fail.asked = 0
    return fail


def interrupted(out: Path, step: int) -> Path:
    """The folder of a toy's run, begun or gone on with, that ended when it asked for a step's examples."""
    with pytest.raises(Planted):
        fit(stage(load=failing_at(step)), run(out))
    return out


@pytest.mark.parametrize("ends", [[1], [5], [19], [3, 9, 5], [6, 6, 6, 6, 3]])
def test_a_run_that_was_interrupted_ends_as_if_it_had_not(ends: Sequence[int], tmp_path, whole):
    """Weights, buffers, averages, optimisers, dropout's generator, order, log: bit for bit."""
    out = tmp_path / "run"
    for end in ends:
        interrupted(out, end)
        torch.rand(3)  # whatever the process did in between
    fit(stage(), run(out))
    assert_same(out, whole)


def changed(saved: Checkpoint, kind: str, value: Callable[[str, Tensor], Tensor | None]):
    """A checkpoint whose tensors of one kind are other ones, or none."""
    tensors = {}
    for name, tensor in saved.tensors.items():
        new = value(name, tensor) if name.startswith(kind) else tensor
        tensors |= {} if new is None else {name: new}
    return saved._replace(tensors=tensors)


def other_state(name: str, state: Tensor) -> Tensor:
    return torch.Generator().manual_seed(9).get_state()[None] if "cpu" in name else state


FORGETFUL = {
    "optimiser": lambda saved: changed(saved, "optimizer/", lambda *_: None),
    "Muon's momentum": lambda saved: changed(
        saved, "optimizer/hidden.weight", lambda name, t: torch.zeros_like(t)
    ),
    "average": lambda saved: changed(
        saved, "average/", lambda name, t: saved.tensors[name.replace("average", "weights")]
    ),
    "generators": lambda saved: changed(saved, "random/", other_state),
    "buffers": lambda saved: changed(saved, "weights/seen", lambda name, t: torch.zeros_like(t)),
    "how many were averaged": lambda saved: saved._replace(facts={**saved.facts, "averaged": 1}),
    "log": lambda saved: saved._replace(facts={**saved.facts, "log": []}),
    "schedule and data position": lambda saved: saved._replace(step=saved.step - 1),
}


@pytest.mark.parametrize("forgotten", FORGETFUL)
def test_a_resumption_that_forgets_is_noticed(forgotten, tmp_path, whole, monkeypatch):
    """The comparison above fails if one thing is not as it was; with nothing forgotten it does not."""
    out = interrupted(tmp_path / "run", 9)
    shutil.copytree(out, tmp_path / "again")
    fit(stage(), run(tmp_path / "again"))
    assert_same(tmp_path / "again", whole)
    newest = room_of_checkpoints.newest
    monkeypatch.setattr(
        room_of_checkpoints, "newest", lambda *asked: FORGETFUL[forgotten](newest(*asked))
    )
    fit(stage(), run(out))
    with pytest.raises(AssertionError):
        assert_same(out, whole)


def test_a_resumption_that_takes_other_examples_is_noticed(tmp_path, whole):
    """The position starts at 0 again."""
    out = interrupted(tmp_path / "run", 9)
    started = []

    def from_the_first(positions: range, share: room.Portion) -> tuple[Tensor]:
        started.append(positions.start)
        first = positions.start - started[0]
        return load(range(first, first + len(positions)), share)

    fit(stage(load=from_the_first), run(out))
    with pytest.raises(AssertionError):
        assert_same(out, whole)


def test_the_log_goes_on_from_the_checkpoint(tmp_path, whole):
    """Lines that are later than the checkpoint are dropped and written again, and half a line is, too."""
    out = interrupted(tmp_path / "run", 11)
    with (out / "log.jsonl").open("a") as file:  # of a step after the checkpoint of step 8
        file.write('{"stage": "Toy", "step": 12, "seconds": 1.0, "error": 99.0}\n{"stage": "To')
    fit(stage(), run(out))
    assert_same(out, whole)


def test_a_finished_stage_is_only_read(tmp_path, whole):
    """Fitting again trains no step and returns the same model."""
    out = tmp_path / "run"
    first = fit(stage(), run(out))
    again = fit(stage(load=failing_at(0)), run(out))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert_same(out, whole)


def test_the_callers_generator_is_left_alone(tmp_path):
    """Training draws from generators of its own."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    each = stage()
    torch.set_rng_state(before)
    fit(each, run(tmp_path / "run"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_step_and_leaves_a_checkpoint(kind, tmp_path, whole, capsys):
    """The signal in the middle of step 7: a checkpoint after step 7, KeyboardInterrupt, old handlers."""
    out, before = tmp_path / "run", signal.getsignal(kind)

    def interrupt(model: Toy, batch: Batch) -> Loss:
        if batch.step == 6:
            os.kill(os.getpid(), kind)
        return toy_loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(stage(loss=interrupt), run(out))
    assert found(out / "checkpoints", "Toy")[-1].name == "toy-00000007.safetensors"
    assert "stopped after step 7 of 20" in "".join(capsys.readouterr())
    assert signal.getsignal(kind) == before
    fit(stage(), run(out))
    assert lines(out) == lines(whole)
    assert_same_checkpoint(
        found(out / "checkpoints", "Toy")[-1], found(whole / "checkpoints", "Toy")[-1]
    )


def test_ctrl_c_reaches_the_workers_too_and_stops_nothing_early(tmp_path, whole):
    """A terminal sends the signal to every process of the command; the step that is due is still loaded."""
    out = tmp_path / "run"

    def interrupt(model: Toy, batch: Batch) -> Loss:
        if batch.step == 6:
            for child in psutil.Process().children():
                os.kill(child.pid, signal.SIGINT)
        if batch.step == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return toy_loss(model, batch)

    with pytest.raises(KeyboardInterrupt):
        fit(stage(loss=interrupt), run(out, workers=2))
    assert found(out / "checkpoints", "Toy")[-1].name == "toy-00000013.safetensors"
    fit(stage(), run(out, workers=2))
    assert lines(out) == lines(whole)


def test_the_second_ctrl_c_does_not_wait(tmp_path):
    """Twice in one step: at once, as in any program."""

    def impatient(model: Toy, batch: Batch) -> Loss:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the step went on")

    with pytest.raises(KeyboardInterrupt):
        fit(stage(loss=impatient), run(tmp_path / "run"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, whole, capsys):
    """One changed byte in the newest: a warning with its path, then the same end."""
    out = tmp_path / "run"
    with pytest.raises(Planted):
        fit(stage(load=failing_at(14)), run(out))
    newest = found(out / "checkpoints", "Toy")[-1]
    data = bytearray(newest.read_bytes())
    data[-5] ^= 1
    newest.write_bytes(data)
    capsys.readouterr()
    fit(stage(), run(out))
    said = "".join(capsys.readouterr())
    assert f"{newest} is damaged" in said and "going on from step 8" in said
    assert_same(out, whole)


def test_a_run_goes_on_where_the_loss_is_scaled_anew(tmp_path, whole):
    """Begun on a device without float16, taken over by one that scales the loss: its scaler starts fresh."""

    class Scaler:
        def state_dict(self):
            return {"scale": 1.0}

        def load_state_dict(self, state):
            assert state["scale"] == 1.0, "no such state was saved"

    loop = room.Loop(stage(), run(tmp_path / "run"))
    saved = room_of_checkpoints.read(found(whole / "checkpoints", "Toy")[-1])
    assert "scaler" not in saved.facts
    loop.accelerator.scaler = Scaler()
    loop.load(saved)
    assert loop.step == saved.step and loop.facts()["scaler"] == {"scale": 1.0}
    loop.load(saved._replace(facts=loop.facts()))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, whole):
    """No space for the third checkpoint: an OSError, the second one is good, and the run can go on."""
    out, ours = tmp_path / "run", room_of_checkpoints.write_atomically

    def full(path: Path, fill) -> None:
        def fill_half(file) -> None:
            fill(Full(file))

        ours(path, fill_half if path.name == "toy-00000012.safetensors" else fill)

    monkeypatch.setattr(room_of_checkpoints, "write_atomically", full)
    with pytest.raises(OSError) as error:
        fit(stage(), run(out))
    assert error.value.errno == errno.ENOSPC
    names = [path.name for path in sorted((out / "checkpoints").iterdir())]
    assert names == ["toy-00000004.safetensors", "toy-00000008.safetensors"]
    assert read(found(out / "checkpoints", "Toy")[-1]).step == 8
    monkeypatch.setattr(room_of_checkpoints, "write_atomically", ours)
    fit(stage(), run(out))
    assert_same(out, whole)


class Full:
    """A file on a disk that has room for half of it."""

    def __init__(self, file):
        self.file = file

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
