"""What a preset needs before anything is bought or started: memory, traffic, time.  (Chapter 13)

    print(table(plan(preset("paper"), Cluster(devices=1024, memory=16))))

The model's part is counted (`counts`), of our own code: the paper's is not public. The rest is arithmetic,
and each line of the table says which. Paper: §2.3 to §2.5, appendices D and E.

GB are 10⁹ bytes. ``bits=16`` is the paper's way: the layers' matrices, their gradients and moments, and all
that lies inside a residual branch in 16 bit; embeddings, heads, gains, biases, logits and the identity path
in 32. ``bits=32``, for the presets that we train, keeps everything in 32 bit.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from .cluster import (
    Arrangement,
    Cluster,
    Demand,
    arrange,
    compressed_share,
    human,
    state_of,
    verdict,
)
from .counts import (
    Activations,
    Parameters,
    count_activations,
    count_dvae,
    count_flops,
    count_parameters,
)
from .dalle import DALLEConfig
from .dvae import DVAEConfig
from .presets import PAPER, Preset

PAPERS_RANK = 896  # of PowerSGD, for a whole machine (appendix E)
WIDTH = 112  # columns of the table


class Line(NamedTuple):
    """A figure of the plan: what it is, its unit ("", "B", "FLOP", "s" or "%") and where it comes from."""

    section: str
    name: str
    value: float
    unit: str
    how: str


@dataclass(frozen=True)
class Plan:
    """All figures, the ways to arrange the memory (simplest first), and the verdict in words."""

    preset: str
    cluster: Cluster
    lines: list[Line]
    ways: list[Arrangement]
    fits: bool
    verdict: str

    def __getitem__(self, name: str) -> float:
        """The value of a line."""
        return next(line.value for line in self.lines if line.name == name)

    def as_json(self) -> dict:
        """The same as plain data; bytes, seconds and operations are not rounded."""
        lines, ways = ([row._asdict() for row in rows] for rows in (self.lines, self.ways))
        whole = {
            "preset": self.preset,
            "cluster": asdict(self.cluster),
            "lines": lines,
            "ways": ways,
        }
        return {**whole, "fits": self.fits, "verdict": self.verdict}


def plan(
    preset: Preset,
    cluster: Cluster,
    batch: int | None = None,
    bits: int | None = None,
    rank: int | None = None,
) -> Plan:
    """What both stages of a preset need on a cluster.

    batch: pictures of an update on all devices, default the preset's. bits: 16 or 32, default as the paper's
    for ``paper``, else 32. rank: of PowerSGD for a whole machine, default 896 for ``paper``, else D / 4.
    Raises ValueError for a batch with fewer pictures than devices, other bits, and a rank outside 1 … D.
    """
    paper = preset.name == PAPER.name
    batch = preset.dalle_training.batch if batch is None else batch
    bits = (16 if paper else 32) if bits is None else bits
    rank = (PAPERS_RANK if paper else max(1, preset.dalle.D // 4)) if rank is None else rank
    check_settings(preset.dalle, cluster, batch, bits, rank)
    parameters = count_parameters(preset.dalle)
    activations = count_activations(preset.dalle, bits)
    block = 8 * preset.dalle.D**2 * bits / 8  # an MLP's two matrices, the largest branch
    state = state_of(parameters, bits, 2 if paper else 1)
    demand = Demand(state, activations, fetched=3 * block)
    ways = arrange(demand, cluster, -(-batch // cluster.devices))
    fitting = [way for way in ways if way.bytes <= cluster.bytes]
    way = fitting[0] if fitting else ways[-1]
    passes = -(-batch // (cluster.devices * way.pictures))
    lines = [
        *parameter_lines(preset, parameters, bits),
        *state_lines(demand, cluster, bits, paper),
        *activation_lines(preset.dalle, activations, bits),
        *dvae_lines(preset.dvae),
        *inside_lines(state.weights, cluster, way, passes),
        *between_lines(preset.dalle, parameters, cluster, bits, rank),
        *time_lines(preset, cluster, batch, way),
    ]
    dvae = count_dvae(preset.dvae)
    both = bool(fitting), dvae.state + dvae.activations <= cluster.bytes
    words = verdict(ways, demand, cluster, bits)
    words += f" Stage 1 {'fits' if both[1] else 'does not fit'}: a device needs "
    words += f"{human(dvae.state + dvae.activations, 'B')} for one picture at a time."
    return Plan(preset.name, cluster, lines, ways, all(both), words)


def check_settings(c: DALLEConfig, cluster: Cluster, batch: int, bits: int, rank: int) -> None:
    """Raise ValueError for what no training could have."""
    if batch < cluster.devices:
        raise ValueError(
            f"a batch of {batch} leaves some of {cluster.devices} devices without work"
        )
    if bits not in (16, 32):
        raise ValueError(f"bits must be 16 or 32, not {bits}")
    if not 1 <= rank <= c.D:
        raise ValueError(f"rank must be 1 … D = {c.D}, not {rank}")


def parameter_lines(preset: Preset, p: Parameters, bits: int) -> Iterator[Line]:
    """How many parameters there are, and what they weigh."""
    dvae, c, here = count_dvae(preset.dvae), preset.dalle, "Parameters"
    yield Line(here, "dVAE, encoder", dvae.encoder, "", "its convolutions, with biases")
    yield Line(here, "dVAE, decoder", dvae.decoder, "", "its convolutions, with biases")
    how = f"{c.L} layers × (4 of attention + 8 of the MLP) × D², D = {c.D}"
    yield Line(here, "DALL·E, matrices", p.matrices, "", how)
    how = f"2V + 2K + 2T + h + w + 2 rows of D: V {c.V}, K {c.K}, T {c.T}"
    yield Line(here, "DALL·E, embeddings and heads", p.tables, "", how)
    how = "of LayerNorms and linear layers"
    yield Line(here, "DALL·E, gains and biases", p.vectors, "", how)
    yield Line(here, "DALL·E, all", sum(p), "", "the paper says 12 billion of its model (§2.3)")
    how = f"{bits // 8} bytes each; the paper says about 24 GB in 16 bit (§2.4)"
    yield Line(here, "DALL·E, all in one place", sum(p) * bits / 8, "B", how)


def state_lines(demand: Demand, cluster: Cluster, bits: int, paper: bool) -> Iterator[Line]:
    """What training holds between updates, alone and shared by the devices of a machine."""
    here, state = "State of training", demand.state
    how = f"{bits // 8} bytes for each value of a matrix, 4 for every other"
    yield Line(here, "weights", state.weights, "B", how)
    how = "as many; PowerSGD's errors wait in the same place (appendix E)"
    yield Line(here, "gradients", state.gradients, "B", how)
    muon = "Muon: one a value of a matrix; AdamW: two of each other"
    how = "AdamW: two a weight, as precise as the weight" if paper else muon
    yield Line(here, "moments", state.moments, "B", how)
    yield Line(here, "whole state", sum(state), "B", "the sum")
    if cluster.shards > 1:
        how = f"the sum / {cluster.shards}: each device of a machine owns a share (§2.4)"
        yield Line(here, "a device's share", sum(state) / cluster.shards, "B", how)
        how = "weights of two MLPs, in use and fetched ahead, one's gradients"
        yield Line(here, "blocks in passing", demand.fetched, "B", how)


def activation_lines(c: DALLEConfig, a: Activations, bits: int) -> Iterator[Line]:
    """What the forward pass of one picture keeps for the backward pass."""
    here, length = "Activations of one picture", c.T + 2 + c.N
    how = f"input of {2 * c.L} residual branches: {length} positions × {c.D} × 4 bytes"
    yield Line(here, "identity path", a.identity, "B", how)
    how = f"in {bits} bit; counted by running all {c.L} layers without numbers"
    yield Line(here, "inside the branches", a.branches, "B", how)
    yield Line(here, "inside the largest branch", a.largest, "B", "counted in the same way")
    how = "logits and losses, mostly; 32 bit"
    yield Line(here, "embeddings, heads, losses", a.ends, "B", how)
    how = "inside the branches + heads"
    yield Line(here, "all activations", a.branches + a.ends, "B", how)
    how = "identity path + largest branch, computed again + heads (§2.4)"
    yield Line(here, "with checkpointing", a.identity + a.largest + a.ends, "B", how)


def dvae_lines(config: DVAEConfig) -> Iterator[Line]:
    """What stage 1 holds, in 32 bit, which every device holds whole."""
    here, dvae = "Stage 1, the dVAE", count_dvae(config)
    how = "weights, gradients, two moments, average: 20 bytes a parameter"
    yield Line(here, "state", dvae.state, "B", how)
    yield Line(here, "activations of a picture", dvae.activations, "B", "in 32 bit, counted")
    how = "the least that a device needs"
    yield Line(here, "one picture at a time", dvae.state + dvae.activations, "B", how)


def inside_lines(weights: float, cluster: Cluster, way: Arrangement, passes: int) -> Iterator[Line]:
    """What each device of a machine sends to the others in an update. weights: all bytes of them."""
    here, s = "Traffic of an update", cluster.shards
    if way.shards > 1:
        how = f"{s - 1}/{s} of all weights fetched twice, of gradients given once, {passes}×"
        yield Line(here, "inside a machine", passes * 3 * (s - 1) / s * weights, "B", how)
    elif s > 1:
        how = (
            f"2 · {s - 1}/{s} of all gradients, in an all-reduce; every device has the whole state"
        )
        yield Line(here, "inside a machine", 2 * (s - 1) / s * weights, "B", how)


def between_lines(
    c: DALLEConfig, p: Parameters, cluster: Cluster, bits: int, rank: int
) -> Iterator[Line]:
    """What each machine sends to the others in an update, as it is and with PowerSGD."""
    here, s, M = "Traffic of an update", cluster.shards, cluster.machines
    if M == 1:
        return
    rest = (p.tables + p.vectors) * 4
    whole = p.matrices * bits / 8 + rest
    share = compressed_share(c.D, rank, s)
    small = p.matrices * bits / 8 * share + rest
    ring = 2 * (M - 1) / M
    how = f"2 · (M − 1)/M of all gradients, sent by each of M = {M} machines"
    yield Line(here, "between machines", ring * whole, "B", how)
    how = f"matrices in rank {rank}, {-(-rank // s)} a device; the rest as it is"
    yield Line(here, "with PowerSGD", ring * small, "B", how)
    how = f"about 1 − rank · (1/2 + 1/{s}) / D; the paper: 86 % (appendix E)"
    yield Line(here, "saved of the matrices", 100 * (1 - share), "%", how)
    how = "embeddings, heads, gains and biases are sent whole"
    yield Line(here, "saved of everything", 100 * (1 - small / whole), "%", how)
    how = f"at {cluster.network:g} GB/s a machine (assumed)"
    yield Line(here, "time between machines", ring * whole / cluster.network / 1e9, "s", how)
    yield Line(here, "time with PowerSGD", ring * small / cluster.network / 1e9, "s", how)


def time_lines(preset: Preset, cluster: Cluster, batch: int, way: Arrangement) -> Iterator[Line]:
    """Operations and time of both stages, traffic aside."""
    here, c = "Computing", preset.dalle
    speed = cluster.peak * 1e12 * cluster.utilisation
    how = f"counted; about 6 · {c.T + 2 + c.N} positions · matrices' parameters"
    yield Line(here, "a picture", count_flops(c, False), "FLOP", how)
    how = "branches run again, all but their last matrix product"
    yield Line(here, "a picture, with checkpointing", count_flops(c, True), "FLOP", how)
    seconds = count_flops(c, way.checkpointing) * batch / (cluster.devices * speed)
    kept = "with" if way.checkpointing else "without"
    how = (
        f"{batch:,} pictures, {kept} checkpointing, {cluster.utilisation:g} · {cluster.peak:g} "
        "TFLOP/s (assumed)"
    )
    yield Line(here, "an update", seconds, "s", how)
    steps = preset.dalle_training.steps
    yield Line(here, "stage 2", seconds * steps, "s", f"{steps:,} updates")
    cost, t = count_dvae(preset.dvae).flops, preset.dvae_training
    yield Line(here, "a picture of stage 1", cost, "FLOP", "the dVAE's convolutions: counted")
    busy = min(cluster.devices, t.batch)
    how = f"{t.steps:,} updates of {t.batch} pictures, on {busy:,} of the devices"
    yield Line(here, "stage 1", cost * t.batch * t.steps / (busy * speed), "s", how)


# ------------------------------------------------------------------------------------------- in words


def table(p: Plan) -> str:
    """The plan as text: figures with their sources, the ways to arrange the memory, the verdict."""
    c, section = p.cluster, None
    each = f"{c.memory:g} GB as sold ({c.memory:g} · 2³⁰ bytes = {human(c.bytes, 'B')})"
    rows = [f"The preset {p.preset!r} on {c.devices:,} × {each}"]
    for line in p.lines:
        if line.section != section:
            section = line.section
            rows += ["", section]
        first, *more = textwrap.wrap(line.how, WIDTH - 48)
        rows.append(f"  {line.name:<29} {human(line.value, line.unit):>14}  {first}")
        rows += [" " * 48 + rest for rest in more]
    rows += ["", "Memory of a device"]
    for way in p.ways:
        fits = "fits" if way.bytes <= c.bytes else "too much"
        rows.append(f"  {way!s:<64} {human(way.bytes, 'B'):>9}  {fits}")
    return "\n".join([*rows, "", *textwrap.wrap(p.verdict, WIDTH)])
