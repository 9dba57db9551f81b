"""The plan: the paper's numbers, and that counting without numbers counts what really happens."""

import json
import math
from dataclasses import replace

import pytest
import torch
from builders import tiny_dalle, tiny_tokens
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from minidalle.cluster import (
    Cluster,
    Demand,
    State,
    arrange,
    compressed_share,
    human,
    powersgd_values,
    state_of,
    verdict,
)
from minidalle.counts import (
    META,
    Activations,
    Parameters,
    count_activations,
    count_flops,
    count_parameters,
    on_meta,
    saved_bytes,
)
from minidalle.dalle import DALLE, DALLEConfig
from minidalle.dvae import DVAE
from minidalle.plan import WIDTH, Plan, plan, table
from minidalle.presets import PAPER, PRESETS, preset

GB = 1e9
PUBLISHED = {
    1920: (2.8, 512, 83),
    2688: (5.6, 640, 85),
    3968: (12, 896, 86),
}  # D: billions, rank, %
SMALL = DALLEConfig(V=20, T=4, K=11, h=3, w=4, D=16, H=2, L=5, kernel=3)
LONG = replace(SMALL, h=24, w=24)  # long enough for the structured form of attention


@pytest.fixture(scope="module")
def papers() -> Plan:
    """The paper's model on the paper's machines."""
    return plan(PAPER, Cluster(devices=1024, memory=16))


# ------------------------------------------------------------------------------------------ the paper


@pytest.mark.parametrize("D", PUBLISHED)
def test_the_papers_three_models_have_64_layers(D):
    """Its widths with heads of 64 give its parameter counts at that depth, and at none eight away."""
    billions = PUBLISHED[D][0]
    for L, fits in ((64, True), (56, False), (72, False)):
        n = count_parameters(replace(DALLEConfig(), D=D, H=D // 64, L=L)).matrices
        assert (abs(n / GB / billions - 1) < 0.02) == fits, n


@pytest.mark.parametrize("D", PUBLISHED)
def test_powersgd_saves_what_the_paper_says(D):
    """Its three ranks on machines of eight; on machines of one it would be much less."""
    _, rank, percent = PUBLISHED[D]
    saved = 1 - compressed_share(D, rank, 8)
    assert round(100 * saved) == percent
    assert saved == pytest.approx(1 - rank * (1 / 2 + 1 / 8) / D), "the formula in the table"
    assert 1 - compressed_share(D, rank, 1) < 0.7


def test_the_papers_model_is_the_papers(papers):
    """12 billion parameters, about 24 GB in 16 bit: more than a V100 of 16 GB has; the dVAE's two halves
    as published."""
    assert papers["DALL·E, all"] == pytest.approx(12e9, rel=0.03)
    assert papers["DALL·E, all in one place"] == pytest.approx(24e9, rel=0.03)
    assert papers["weights"] > papers.cluster.bytes
    assert papers["dVAE, encoder"] == 53_786_240
    assert papers["dVAE, decoder"] == 43_829_766


def test_the_papers_model_fits_the_papers_machines_in_one_way_only(papers):
    """With sharding and checkpointing; with one of both it does not, as the paper found."""
    fits = {(w.shards, w.checkpointing): w.bytes <= papers.cluster.bytes for w in papers.ways}
    assert fits == {(1, False): False, (1, True): False, (8, False): False, (8, True): True}
    assert papers.fits and papers.verdict.startswith(
        "Stage 2 fits: state shared by 8 devices, check"
    )


def test_the_papers_traffic(papers):
    """127/128 of the gradients twice; matrices shrink by 86 %, tables and vectors not at all."""
    p = count_parameters(PAPER.dalle)
    ring, rest = 2 * 127 / 128, 4 * (p.tables + p.vectors)
    assert papers["between machines"] == pytest.approx(ring * (2 * p.matrices + rest))
    small = 2 * p.matrices * (1 - papers["saved of the matrices"] / 100) + rest
    assert papers["with PowerSGD"] == pytest.approx(ring * small)
    assert papers["inside a machine"] == pytest.approx(3 * 7 / 8 * papers["weights"])
    assert papers["time between machines"] == pytest.approx(papers["between machines"] / 12.5e9)


# ------------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("name", [*PRESETS, "paper"])
def test_parameters_by_kind_are_all_parameters(name):
    """And the two formulas of the table give the counts."""
    c = preset(name).dalle
    p = count_parameters(c)
    assert sum(p) == sum(q.numel() for q in on_meta(DALLE, c).parameters())
    assert p.matrices == 12 * c.L * c.D**2
    assert p.tables == (2 * c.V + 2 * c.K + 2 * c.T + c.h + c.w + 2) * c.D


@pytest.mark.parametrize("config", [SMALL, LONG], ids=["dense", "structured"])
def test_activations_are_what_autograd_keeps_on_the_cpu(config):
    """Byte for byte, with real numbers, with and without checkpointing; the branches alone too."""
    a = count_activations(config, bits=32)
    for checkpointing, expected in ((False, a.branches + a.ends), (True, a.identity + a.ends)):
        model = DALLE(config, checkpointing=checkpointing)
        tokens = tiny_tokens(model, B=1)
        assert saved_bytes(lambda model=model, t=tokens: model.loss(*t), model) == expected
    x = torch.randn(1, model.transformer.config.length, config.D, requires_grad=True)
    form = "structured" if config is LONG else "dense"
    masks = model.transformer.geometry(form, x.device)
    each = [
        saved_bytes(lambda b=b: b(x), model)
        for layer, mask in zip(model.transformer.layers, masks, strict=True)
        for b in layer.branches(mask, form)
    ]
    assert max(each) == a.largest


def test_activations_grow_with_the_batch_no_faster_than_planned():
    """B pictures keep at most B times the bytes of one: what all of them share counts once."""
    a = count_activations(SMALL, bits=32)
    model = tiny_dalle(**{k: getattr(SMALL, k) for k in ("V", "T", "K", "h", "w", "D", "H", "L")})
    kept = saved_bytes(lambda: model.loss(*tiny_tokens(model, B=5)), model)
    assert 0.9 * 5 * (a.branches + a.ends) < kept <= 5 * (a.branches + a.ends)


def test_16_bit_halves_the_branches_alone():
    """Identity path, logits and losses stay in 32 bit; masks and indices are no numbers of 16 bit."""
    half, whole = count_activations(SMALL, 16), count_activations(SMALL, 32)
    assert (half.identity, half.ends) == (whole.identity, whole.ends)
    assert 0.5 <= half.branches / whole.branches < 0.55


def test_saved_bytes_counts_a_storage_once_and_no_parameter():
    """x · w keeps x and w, of which w is a parameter; x² and the sine of x keep the same x."""
    w = torch.nn.Linear(3, 5, bias=False)
    x = torch.randn(7, 3, requires_grad=True)
    assert saved_bytes(lambda: w(x), w) == 7 * 3 * 4
    assert saved_bytes(lambda: x.square() + x.sin(), w) == 7 * 3 * 4


def test_flops_without_numbers_are_the_real_ones():
    """Counted on the CPU with numbers; checkpointing adds the forward pass but for the last products."""
    flops = {}
    for checkpointing in (False, True):
        flops[checkpointing] = count_flops(SMALL, checkpointing)
        real = DALLE(SMALL, checkpointing=checkpointing)
        with FlopCounterMode(display=False) as counter:
            real.loss(*tiny_tokens(real, B=1)).loss.backward()
        assert counter.get_total_flops() == flops[checkpointing]
    n = SMALL.T + 2 + SMALL.N
    again = (
        2 * n * 7 * SMALL.D**2 + 2 * 2 * n * n * SMALL.D
    )  # q, k, v and up; scores and their sums
    assert flops[True] - flops[False] == SMALL.L * again


def test_the_state_is_what_the_optimisers_keep():
    """A step of AdamW, and of Muon for the matrices with AdamW for the rest, on real parameters."""
    p, model = count_parameters(SMALL), DALLE(SMALL)
    inside = [q for q in model.transformer.layers.parameters() if q.ndim == 2]
    rest = [q for q in model.parameters() if not any(q is r for r in inside)]
    model.loss(*tiny_tokens(model)).loss.backward()

    def moments(*optimizers) -> int:
        for optimizer in optimizers:
            optimizer.step()
        states = [s for o in optimizers for s in o.state.values()]
        return sum(t.nbytes for s in states for t in s.values() if torch.is_tensor(t) and t.ndim)

    adamw, muon = torch.optim.AdamW, torch.optim.Muon
    assert state_of(p, 32, 2).moments == moments(adamw(model.parameters()))
    assert state_of(p, 32, 1).moments == moments(muon(inside), adamw(rest))
    assert state_of(p, 32).weights == sum(q.nbytes for q in model.parameters())
    assert state_of(p, 32).gradients == sum(q.grad.nbytes for q in model.parameters())


def test_in_16_bit_only_matrices_are_small():
    """100 values of matrices in 2 bytes, 10 of tables and 1 of a vector in 4."""
    assert state_of(Parameters(100, 10, 1), 16) == State(244, 244, 488)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 20), st.sampled_from([1, 2, 4, 8]))
def test_powersgd_sends_two_thin_matrices_for_each_piece(short, extra, rank, shards):
    """The count is that of real P and Q of the pieces, or of the matrix where it is smaller than those."""
    long = shards * (short + extra)
    columns = math.ceil(rank / shards)
    pieces = torch.empty(short, long, device=META).chunk(shards, dim=1)
    thin = sum(sum(piece.shape) * columns for piece in pieces)
    assert powersgd_values(short, long, rank, shards) == min(thin, short * long)


# ----------------------------------------------------------------------------------- does it fit?


DEMAND = Demand(State(10 * GB, 10 * GB, 20 * GB), Activations(1, 8, 2, 1), fetched=1 * GB)
DEMAND = replace(DEMAND, activations=Activations(*(int(x * GB) for x in DEMAND.activations)))


def test_the_demand_by_hand():
    """40 GB of state; 1 + 8 GB of activations a picture, or 1 + 1 + 2 with checkpointing."""
    assert DEMAND.bytes(1, False, 1) == 49 * GB
    assert DEMAND.bytes(1, True, 1) == 44 * GB
    assert DEMAND.bytes(8, False, 3) == (5 + 1 + 27) * GB
    assert DEMAND.bytes(8, True, 3) == (5 + 1 + 12) * GB


@given(st.floats(0.5, 200), st.integers(1, 64), st.integers(1, 16))
def test_a_way_takes_as_many_pictures_as_fit(memory, devices, pictures):
    """At most the device's own; if it takes fewer, twice as many would not fit; if it does not fit, it
    takes one."""
    cluster = Cluster(devices, memory)
    for way in arrange(DEMAND, cluster, pictures):
        assert 1 <= way.pictures <= pictures
        if way.pictures < pictures:
            assert DEMAND.bytes(way.shards, way.checkpointing, 2 * way.pictures) > cluster.bytes
        assert way.bytes <= cluster.bytes or way.pictures == 1


@given(st.floats(0.5, 60), st.integers(1, 16), st.sampled_from([16, 32]))
def test_what_the_verdict_says_is_true(memory, devices, bits):
    """It fits where a way does; else larger devices, and wider sharding where it is named, do fit."""
    cluster = Cluster(devices, memory)
    ways = arrange(DEMAND, cluster, 4)
    words = verdict(ways, DEMAND, cluster, bits)
    if any(way.bytes <= cluster.bytes for way in ways):
        assert words.startswith("Stage 2 fits: ")
        return
    assert words.startswith("Stage 2 does not fit: ")
    larger = float(words.split("devices with ")[1].split(" GB")[0])
    ways = arrange(DEMAND, replace(cluster, memory=larger), 4)
    assert any(way.bytes <= larger * 2**30 for way in ways)
    if "that share" in words:
        n = int(words.split(" devices that share")[0].split("or ")[-1])
        assert DEMAND.bytes(n, True, 1) <= cluster.bytes
        assert DEMAND.bytes(n // 2, True, 1) > cluster.bytes or n // 2 <= cluster.shards
    else:
        assert "a smaller model" in words and DEMAND.bytes(4096, True, 1) > cluster.bytes
    assert ("--bits 16" in words) == (bits == 32)


def test_one_device_cannot_hold_the_papers_state():
    """And the words say which machines could."""
    found = plan(PAPER, Cluster(devices=1, memory=40))
    assert not found.fits
    assert "devices with 96 GB" in found.verdict and "4 devices that share" in found.verdict


def test_stage_1_must_fit_too():
    """A device that holds a share of stage 2 but not the whole dVAE does not do."""
    wide = replace(PRESETS["ci"], dvae=replace(PRESETS["ci"].dvae, width=2048))
    found = plan(wide, Cluster(memory=0.5))
    assert any(way.bytes <= found.cluster.bytes for way in found.ways)
    assert not found.fits and "Stage 1 does not fit" in found.verdict


def test_stage_1_is_counted_on_the_real_thing():
    """Activations of the ELB of a real picture on the CPU."""
    p = PRESETS["ci"]
    dvae = DVAE(p.dvae)
    x = torch.rand(1, 3, p.dvae.size, p.dvae.size)
    found = plan(p, Cluster())
    assert found["activations of a picture"] == saved_bytes(lambda: dvae.elb(x, 1.0, 1.0), dvae)


# --------------------------------------------------------------------------------- traffic and time


def test_a_single_machine_sends_nothing_to_others():
    """And a single device nothing at all."""
    for devices, sections in ((1, 0), (2, 1), (8, 1), (9, 7)):
        found = plan(PRESETS["ci"], Cluster(devices))
        assert sum(line.section.startswith("Traffic") for line in found.lines) == sections


def test_time_is_work_by_speed():
    """Twice the devices half the time; the batch, the peak and the utilisation are factors."""
    base = Cluster(devices=2, peak=10, utilisation=0.25)
    found = plan(PRESETS["ci"], base)
    t = PRESETS["ci"].dalle_training
    assert found["an update"] == pytest.approx(found["a picture"] * t.batch / (2 * 10e12 * 0.25))
    assert found["stage 2"] == pytest.approx(t.steps * found["an update"])
    for change in ({"devices": 4}, {"peak": 20}, {"utilisation": 0.5}):
        quicker = plan(PRESETS["ci"], replace(base, **change))
        assert quicker["stage 2"] == pytest.approx(found["stage 2"] / 2)
        assert quicker["stage 1"] == pytest.approx(found["stage 1"] / 2)
    assert plan(PRESETS["ci"], base, batch=64)["an update"] == pytest.approx(2 * found["an update"])


def test_devices_that_hold_the_whole_state_send_gradients_alone():
    """Two of a machine: an all-reduce of half of the gradients, twice, which are as large as the weights."""
    found = plan(PRESETS["ci"], Cluster(devices=2))
    assert found.verdict.startswith("Stage 2 fits: whole state")
    assert found["inside a machine"] == found["weights"]


def test_an_all_reduce_sends_nearly_everything_twice():
    """Between M machines 2 · (M − 1)/M of the gradients: of two once, of four one and a half times."""
    for devices, factor in ((16, 1.0), (32, 1.5)):
        found = plan(PRESETS["ci"], Cluster(devices))
        assert found["between machines"] == pytest.approx(factor * found["gradients"])
        assert found["with PowerSGD"] < found["between machines"]


def test_checkpointing_costs_time_where_it_is_needed(papers):
    """The paper's model needs it on 16 GB; one picture a device, at a third of a V100's peak."""
    seconds = papers["a picture, with checkpointing"] / (125e12 * 0.33)
    assert papers["an update"] == pytest.approx(seconds)
    assert 1.1 < papers["a picture, with checkpointing"] / papers["a picture"] < 4 / 3


def test_pictures_that_do_not_fit_at_once_fetch_the_weights_again(papers):
    """Eight pictures a device, one at a time: eight times the traffic inside a machine."""
    more = plan(PAPER, papers.cluster, batch=8 * 1024)
    assert more["inside a machine"] == pytest.approx(8 * papers["inside a machine"])
    assert more["between machines"] == papers["between machines"]


# ---------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (24_585_681_920, "B", "24.6 GB"),
        (512, "B", "512 B"),
        (2.6e9, "B", "2.60 GB"),
        (94.6e12, "FLOP", "94.6 TFLOP"),
        (0.669, "s", "669 ms"),
        (2.74, "s", "2.74 s"),
        (13.6 * 86400, "s", "13.6 days"),
        (38.3 * 31_557_600, "s", "38.3 years"),
        (85.887, "%", "85.9 %"),
        (12_292_840_960, "", "12,292,840,960"),
        (0.0, "B", "0.00 B"),
    ],
)
def test_values_are_written_for_a_person(value, unit, text):
    """Three digits and a unit that fits."""
    assert human(value, unit) == text


@pytest.mark.parametrize("name", [*PRESETS, "paper"])
def test_the_table_has_every_line_with_its_source(name):
    """Within the width of the page, no line without a reason, no name twice."""
    found = plan(preset(name), Cluster(devices=16))
    text = table(found)
    assert all(line.name in text and line.how for line in found.lines)
    assert len({line.name for line in found.lines}) == len(found.lines)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert " ".join(text.split()).endswith(found.verdict)
    assert "2V + 2K + 2T + h + w + 2 rows of D" in text, "the formula that a test above checks"


def test_the_json_has_everything(papers):
    """It survives writing and reading."""
    data = json.loads(json.dumps(papers.as_json()))
    assert data["fits"] is True and data["cluster"]["devices"] == 1024
    assert {line["name"]: line["value"] for line in data["lines"]}["dVAE, encoder"] == 53_786_240
    assert [way["shards"] for way in data["ways"]] == [1, 1, 8, 8]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"devices": 0}, "devices must be at least 1, not 0"),
        ({"per_machine": 0}, "per_machine must be at least 1, not 0"),
        ({"memory": 0}, "memory must be a positive number, not 0"),
        ({"memory": math.nan}, "positive number, not nan"),
        ({"peak": math.inf}, "positive number, not inf"),
        ({"network": -1}, "network must be a positive number, not -1"),
        ({"utilisation": 1.5}, "at most 1, not 1.5"),
    ],
)
def test_a_cluster_that_cannot_be(changes, words):
    """The message has the name and the number."""
    with pytest.raises(ValueError, match=words):
        Cluster(**changes)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"bits": 8}, "16 or 32, not 8"),
        ({"rank": 0}, "rank must be 1 … D = 128, not 0"),
        ({"rank": 129}, "D = 128, not 129"),
        ({"batch": 3}, "batch of 3 leaves some of 4 devices"),
    ],
)
def test_a_plan_that_cannot_be(arguments, words):
    """The message has both numbers."""
    with pytest.raises(ValueError, match=words):
        plan(PRESETS["ci"], Cluster(devices=4), **arguments)
