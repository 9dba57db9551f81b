"""The benchmark measures what it says; how fast the machine is, no test asks."""

import json
import time
import timeit
from dataclasses import replace

import pytest
import torch
from builders import tiny_dalle, tiny_tokens
from torch.utils.flop_counter import FlopCounterMode

from minidalle import bench
from minidalle.bench import SHORT
from minidalle.dalle import DALLE
from minidalle.device import choose_precision
from minidalle.generate import generate
from minidalle.masks import stream_blocks
from minidalle.transformer import FORMS

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_is_found(p):
    """Cost = 3 · (side²)^p."""
    sides = (16, 32, 64)
    assert bench.exponent(sides, [3 * (side**2) ** p for side in sides]) == pytest.approx(p)


def test_seconds_are_seconds():
    """The median of a call that takes a known time, without the first one, which is slower."""
    calls = []

    def call():
        time.sleep(0.01 if calls else 0.2)
        calls.append(1)

    assert 0.009 < bench.seconds(call, 0.05) < 0.1
    assert len(calls) > 1


def test_drawing_without_a_cache_is_drawing():
    """The slow twin that the cache is measured against gives the same tokens."""
    model = tiny_dalle()
    text, _ = tiny_tokens(model, 3)
    slow = bench.generate_uncached(model, text, torch.Generator().manual_seed(4))
    assert torch.equal(slow, generate(model, text, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("kind", ["full", "row"])
def test_memory_is_what_the_backward_pass_needs(kind, monkeypatch):
    """The probabilities of every score, and what is of their order; counted, so it never varies."""
    monkeypatch.setattr(bench, "seconds", lambda call: 1.0)
    n = bench.PREFIX + 20**2
    scores = (
        n * n if kind == "full" else stream_blocks(kind, bench.PREFIX, 20, 20, 11).allowed.numel()
    )
    least = 4 * bench.HEADS * scores
    found = [bench.attention_cost(kind, 20, CPU).bytes for _ in range(2)]
    assert least <= found[0] < 4 * least and found[0] == found[1]


@pytest.fixture
def small(monkeypatch):
    """Everything a hundred times smaller than it is measured."""
    for name, value in {
        "seconds": lambda call: timeit.timeit(call, number=1),
        "MATRIX": 16,
        "BATCH": 2,
        "BATCHES": (1, 2),
        "GRIDS": (3, 4, 5),
        "SIZES": {"1 M": replace(bench.STREAM, D=16, h=2, w=2, L=2)},
        "STREAM": replace(bench.STREAM, D=16, h=2, w=2, L=2),
        "STREAMS": {"16 + 4": (replace(bench.STREAM, D=16, h=2, w=2, L=2), 2)},
    }.items():
        monkeypatch.setattr(bench, name, value)


def test_every_part_is_measured(small, tmp_path, monkeypatch, capsys):
    """A table on stdout, the same figures in the file, all of them positive."""
    from minidalle import cli

    monkeypatch.setattr("sys.argv", ["minidalle", "bench", "--json", str(tmp_path / "b.json")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    out = capsys.readouterr().out
    assert end.value.code == 0, out
    figures = json.loads((tmp_path / "b.json").read_text())
    assert all(figure["value"] > 0 for figure in figures if "exponent" not in figure["what"])
    whats = {figure["what"] for figure in figures}
    assert {"matmul peak", "dVAE ci", "dVAE tiny", "DALL·E training", "sampling"} <= whats
    short = SHORT[choose_precision(torch.device("cpu"))[0]]  # of what was trained in
    assert {f"share of {short} peak", "gain of the cache", "faster than full"} <= whats
    for figure in figures:
        assert f"{figure['what']:<22}{figure['setting']}" in out
    kinds = {figure["setting"].split(",")[0] for figure in figures if "memory" in figure["what"]}
    assert kinds == {"full", "row", "column", "convolution"}
    forms = [f["setting"] for f in figures if f["what"] == "form of attention"]
    assert forms == [f"{form}, 16 + 4" for form in FORMS]


def test_the_flops_of_a_step_are_those_of_its_products(small):
    """As PyTorch counts those of linear layers, forward and backward; the products of attention are more."""
    config = bench.STREAM
    rate, flops = bench.training_speed(config, CPU, 2)
    with FlopCounterMode(display=False) as counter:
        DALLE(config).loss(*bench.random_tokens(config, 2, CPU)).loss.backward()
    counted = counter.get_flop_counts()["Global"]
    linear = counted[torch.ops.aten.mm] + counted[torch.ops.aten.addmm]
    assert 1e9 * flops / rate == pytest.approx(linear / 2)


def test_peak_and_training_are_measured_in_turns(small, monkeypatch):
    """A share of the peak of the same second: half the speed in one round of three changes nothing."""
    peaks, speeds = iter([400.0, 200.0, 400.0]), iter([(100, 240.0), (50, 120.0), (100, 240.0)])
    monkeypatch.setattr(bench, "matmul_peak", lambda *_: next(peaks))
    monkeypatch.setattr(bench, "training_speed", lambda *_: next(speeds))
    assert bench.share_of_peak(bench.STREAM, CPU, 2, torch.bfloat16) == (100, 60.0)


def test_each_form_of_attention_is_measured_by_itself(small, monkeypatch):
    """In the layers, not in the name alone."""
    used = []
    for form, call in FORMS.items():
        watch = lambda *x, form=form, call=call: (used.append(form), call(*x))[1]  # noqa: E731
        monkeypatch.setitem(FORMS, form, watch)
    bench.form_speeds(CPU)
    assert list(dict.fromkeys(used)) == list(FORMS)
