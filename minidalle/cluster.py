"""A cluster and what training asks of it: memory by device, ways to share it, traffic.  (Chapter 13)

Paper: §2.4, §2.5 and appendix E. GB are 10⁹ bytes, but a device's memory is what is sold under the name, 2³⁰.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from .counts import Activations, Parameters

TIMES = {"years": 31_557_600, "days": 86400, "hours": 3600, "minutes": 60, "s": 1, "ms": 1e-3}


@dataclass(frozen=True)
class Cluster:
    """devices: of all machines together. memory: of a device, as it is sold: G · 2³⁰ bytes.

    per_machine: devices in a machine, which share the state of training. peak: of a device, in TFLOP/s;
    utilisation: the share of it that training reaches. network: GB/s that a machine can send to others.
    The defaults of the last three are assumptions: a V100's 125, a third, and 100 Gbit/s.
    """

    devices: int = 1
    memory: float = 16.0
    per_machine: int = 8
    peak: float = 125.0
    utilisation: float = 0.33
    network: float = 12.5

    def __post_init__(self):
        for name in ("devices", "per_machine"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("memory", "peak", "utilisation", "network"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a positive number, not {getattr(self, name)}")
        if self.utilisation > 1:
            raise ValueError(
                f"utilisation is a share of the peak, at most 1, not {self.utilisation}"
            )

    @property
    def bytes(self) -> float:
        """Memory of a device in bytes."""
        return self.memory * 2**30

    @property
    def shards(self) -> int:
        """Devices of one machine, which share the parameters."""
        return min(self.devices, self.per_machine)

    @property
    def machines(self) -> int:
        """Machines, the last one perhaps not full."""
        return -(-self.devices // self.per_machine)


# -------------------------------------------------------------------------------------------- memory


class State(NamedTuple):
    """Bytes of what training holds between updates, on a device that shares it with nobody."""

    weights: float
    gradients: float
    moments: float


def state_of(p: Parameters, bits: int, matrix_moments: int = 2) -> State:
    """Weights, gradients and the optimiser's moments. matrix_moments: 2 for AdamW, 1 for Muon, which all
    other parameters leave to AdamW."""
    matrices, rest = p.matrices * bits / 8, (p.tables + p.vectors) * 4
    return State(matrices + rest, matrices + rest, matrix_moments * matrices + 2 * rest)


@dataclass(frozen=True)
class Demand:
    """What a device needs. fetched: bytes of whole blocks that pass through it where the state is shared."""

    state: State
    activations: Activations
    fetched: float

    def bytes(self, shards: int, checkpointing: bool, pictures: int) -> float:
        """With the state shared by so many devices, and so many pictures at a time."""
        a = self.activations
        kept = a.identity + a.largest if checkpointing else a.branches
        fetched = self.fetched if shards > 1 else 0
        return sum(self.state) / shards + fetched + pictures * (a.ends + kept)


class Arrangement(NamedTuple):
    """A way to train, and the bytes that a device needs for it."""

    shards: int
    checkpointing: bool
    pictures: int
    bytes: float

    def __str__(self) -> str:
        state = f"state shared by {self.shards} devices" if self.shards > 1 else "whole state"
        kept = "checkpointing" if self.checkpointing else "all activations"
        return f"{state}, {kept}, pictures at a time: {self.pictures:,}"


def arrange(demand: Demand, cluster: Cluster, pictures: int) -> list[Arrangement]:
    """The ways to train, simplest first: state whole or shared, activations kept or computed again.

    Each with as many of a device's pictures at a time as fit, or with 1.
    """
    ways = []
    for shards in sorted({1, cluster.shards}):
        for checkpointing in (False, True):
            n = pictures
            while n > 1 and demand.bytes(shards, checkpointing, n) > cluster.bytes:
                n = -(-n // 2)
            ways.append(
                Arrangement(shards, checkpointing, n, demand.bytes(shards, checkpointing, n))
            )
    return ways


def verdict(ways: list[Arrangement], demand: Demand, cluster: Cluster, bits: int) -> str:
    """Whether stage 2 fits, and what would make it fit, in words."""
    room = human(cluster.bytes, "B")
    fitting = [way for way in ways if way.bytes <= cluster.bytes]
    if fitting:
        way = fitting[0]
        spare = human(cluster.bytes - way.bytes, "B")
        return (
            f"Stage 2 fits: {way}. A device needs {human(way.bytes, 'B')} of its {room}; the {spare} left "
            "are for driver, kernels and temporary buffers, which are not counted."
        )
    least = min(ways, key=lambda way: way.bytes)
    cures = [f"devices with {sold(least.bytes)} GB"]
    wider = [2**k for k in range(1, 13) if 2**k > cluster.shards]
    wider = [n for n in wider if demand.bytes(n, True, 1) <= cluster.bytes]
    if wider:
        needed = human(demand.bytes(wider[0], True, 1), "B")
        cures.append(f"{wider[0]} devices that share the state ({needed} each, with checkpointing)")
    if bits == 32:
        cures.append("16 bit (--bits 16)")
    if not wider:
        kept = human(demand.bytes(2**12, True, 1), "B")
        cures.append(f"a smaller model: one picture with any number of devices takes {kept}")
    return (
        f"Stage 2 does not fit: {least} still needs {human(least.bytes, 'B')} a device, which has {room}. "
        f"What would make it fit: {'; or '.join(cures)}."
    )


def sold(needed: float) -> int:
    """The smallest common size of a device's memory that holds so many bytes, in GB as sold."""
    sizes = (4, 6, 8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 192, 288)
    return next((size for size in sizes if size * 2**30 >= needed), math.ceil(needed / 2**30))


# ------------------------------------------------------------------------------------------- traffic


def powersgd_values(short: int, long: int, rank: int, shards: int) -> int:
    """Values that PowerSGD exchanges for the gradient of a matrix of short × long (Vogels et al. 2019).

    The matrix is cut along its long side into ``shards`` pieces, one a device; each sends P (short × r) and
    Q (long / shards × r) of r = rank / shards columns, in all about rank · (short + long / shards). The
    paper does not print this formula; it gives the paper's three savings. Appendix E.
    """
    columns = -(-rank // shards)
    return min(shards * columns * (short + -(-long // shards)), short * long)


def compressed_share(D: int, rank: int, shards: int) -> float:
    """What is left of the traffic of a layer's matrices: query, key, value and output are D × D each, the
    MLP has two of D × 4D."""
    square = powersgd_values(D, D, rank, shards)
    oblong = powersgd_values(D, 4 * D, rank, shards)
    return (4 * square + 2 * oblong) / (12 * D * D)


# ---------------------------------------------------------------------------------------------- words


def human(value: float, unit: str) -> str:
    """A value for a person: 24.6 GB, 94.6 TFLOP, 13.6 days, 86 %, 12,292,840,960."""
    if unit in ("B", "FLOP"):
        power = min(int(math.log10(max(value, 1)) // 3), 7)
        return f"{digits(value / 1000**power)} {' kMGTPEZ'[power].strip()}{unit}"
    if unit == "s":
        name = next((name for name, length in TIMES.items() if value >= 1.5 * length), "ms")
        return f"{digits(value / TIMES[name])} {name}"
    return f"{value:.1f} %" if unit == "%" else f"{value:,.0f}"


def digits(value: float) -> str:
    """Three of them: 2.60, 16.3, 126, 1,460."""
    return f"{value:,.{max(0, 2 - int(math.log10(max(value, 1))))}f}"
