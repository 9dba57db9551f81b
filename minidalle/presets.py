"""Named sizes of everything, as frozen data.  (Chapters 0 and 13)

    ci      24×24 pictures of single things, 6×6 tokens: every stage from nothing in minutes on two cores
    two     32×32 pictures of two things or more, 8×8 tokens: the next rung, four to five minutes on two cores
            (so small that some layouts look alike: 3 % of test pictures equal a training picture)
    tiny    64×64 pictures of three families, 8×8 tokens: the bundled weights
    world   64×64 pictures of all families, 8×8 tokens: bundled too, trained for a good two hours on two cores
    small   128×128 pictures, three families or your own, 16×16 tokens: meant for an hour on a Colab T4
    paper   256×256 pictures, 32×32 tokens, 12 billion parameters: to count with (`plan`), not to train

The time of `small` is an estimate, not a measurement: 6 (dVAE) and 15 (DALL·E) times 10¹⁵ operations take an
hour at 6·10¹² a second, a tenth of a T4's peak in 16 bit. It has not been trained to the end yet.

The numbers of `ci`, `two`, `tiny` and `world` are ours, found by trying; the docstrings below give the
paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .clip import CLIPConfig
from .dalle import DALLEConfig
from .dvae import DVAEConfig
from .tokenizer import DROPOUT
from .world import FAMILIES, family


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the loop reads, of every stage.

    batch: examples a step, over all processes. accumulate: parts in which a process computes its share, one
    after the other, to save memory. lr: AdamW's highest, after ``warmup`` steps. clip: largest gradient
    norm. weight_decay: of matrices; gains, biases and embeddings have none. ema: decay of the average of the
    weights, taken every ``ema_every`` steps; 0 is no average. save_every: steps between two checkpoints.
    """

    steps: int
    batch: int
    lr: float
    warmup: int
    clip: float
    weight_decay: float
    ema: float = 0.0
    ema_every: int = 1
    accumulate: int = 1
    save_every: int = 250


@dataclass(frozen=True, kw_only=True)
class DVAETraining(Training):
    """Stage 1. Learning rate, τ and β follow half cosines (`schedules.cosine`) of the step.

    Paper (appendix A.2): 3M steps of 512, lr 1e-4 → 1.25e-6 over 1.2M, τ 1 → 1/16 over 150k, β 0 → 6.6 over
    5k, decay 1e-4, average 0.999, no balance term.

    lr_last: share of the learning rate that is left after ``lr_steps`` steps; None is all of them. tau: first
    and last temperature; reached after ``tau_share`` of the steps. beta: KL weight on the paper's scale,
    reached after ``beta_share``. balance: weight of the marginal KL (ours), of the examples that one process
    computes at once. muon_lr: of the residual blocks' kernels (Muon, ours); None leaves them to AdamW, as in
    the paper.
    """

    tau: tuple[float, float]
    tau_share: float
    beta: float
    beta_share: float
    balance: float
    muon_lr: float | None = None
    lr_last: float = 0.01
    lr_steps: int | None = None
    weight_decay: float = 1e-4


@dataclass(frozen=True, kw_only=True)
class DALLETraining(Training):
    """Stage 2. Paper (appendix B): AdamW alone, 430k steps of 1024, lr 4.5e-4 after 5k steps, halved on
    plateaus, weight decay 4.5e-2, gradient norm 4, average 0.99 of every 25th step.

    muon_lr: of the layers' matrices (Muon, without decay); None leaves them to AdamW, as in the paper.

    Both rise for ``warmup`` steps and fall linearly to 0. pictures: how many are encoded into tokens before
    the first step. dropout: of BPE merges, 0.1 in the paper (`tokenizer.merge`).
    """

    muon_lr: float | None
    pictures: int
    dropout: float = 0.0
    clip: float = 4.0
    weight_decay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class CLIPTraining(Training):
    """Stage 3, ours: the paper used a CLIP that was there already (Radford et al. 2021: 32 epochs of 400M
    pairs, batch 32,768, AdamW (0.9, 0.98), decay 0.2, half a cosine after 2000 steps).

    The learning rates rise for ``warmup`` steps and fall along half a cosine to a hundredth. muon_lr: as in
    `DALLETraining`. families: of the world in one batch (`FewFamilies`), so that most negatives are near;
    fewer where the source has fewer or the batch does not divide into so many.
    decoded: share of steps whose pictures are the dVAE's, as all are that CLIP will rank.
    """

    muon_lr: float | None
    families: int
    decoded: float
    clip: float = 1.0
    weight_decay: float = 0.2


@dataclass(frozen=True)
class Preset:
    """What to train on and how. where: allowed slot values, per `Family.example`.

    dvae_more: families of which the dVAE, and it alone, sees more than of the others: one more turn in every
    round of the families for each time that it is named. clip, clip_training: None trains none.
    Raises ValueError if ``dvae_more`` names a family that is not among ``families``.
    """

    name: str
    families: tuple[str, ...]
    dvae: DVAEConfig
    dalle: DALLEConfig
    dvae_training: DVAETraining
    dalle_training: DALLETraining
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dvae_more: tuple[str, ...] = ()
    clip: CLIPConfig | None = None
    clip_training: CLIPTraining | None = None

    def __post_init__(self):
        for name in self.dvae_more:
            if name not in self.families:
                raise ValueError(
                    f"dvae_more names {name!r}, which is none of the families: {', '.join(self.families)}"
                )

    def of_families(self, names: Sequence[str]) -> "Preset":
        """The same recipe for other families of the world, with those of its limits that concern them.

        Raises ValueError for unknown families and repeated ones.
        """
        if len(set(names)) < len(names):
            raise ValueError(f"a family is given twice: {', '.join(names)}")
        slots = {slot for name in names for slot in family(name).slots}
        where = {slot: values for slot, values in self.where.items() if slot in slots}
        more = tuple(name for name in self.dvae_more if name in names)
        return replace(self, families=tuple(names), where=where, dvae_more=more)


CI = Preset(
    name="ci",
    families=("attributes",),
    where={"count": ("one",), "pattern": ("plain",)},
    dvae=DVAEConfig(
        size=24, K=64, width=64, decoder_input=64, groups=2, blocks=1, input_kernel=3, bottleneck=2,
        patch=2, logit_norm=True, likelihood="gaussian",
    ),
    dalle=DALLEConfig(V=384, T=7, K=64, h=6, w=6, D=128, H=4, L=4, kernel=3),
    dvae_training=DVAETraining(
        steps=600, batch=32, lr=4e-3, muon_lr=0.02, warmup=100, tau=(1.0, 0.2), tau_share=0.8, beta=0.0,
        beta_share=0.0, balance=0.1, clip=50.0, ema=0.995,
    ),
    dalle_training=DALLETraining(
        steps=1000, batch=32, lr=2e-2, muon_lr=0.02, warmup=20, pictures=20_000
    ),
    clip=CLIPConfig(size=24, V=384, T=7, D=64, H=4, L=1, E=64, width=32, halvings=2),
    clip_training=CLIPTraining(
        steps=200, batch=64, lr=2e-3, muon_lr=0.02, warmup=20, families=1, decoded=0.75
    ),
)  # fmt: skip

TWO = Preset(
    name="two",
    families=("attributes", "objects"),
    where={"pattern": ("plain",), "arrangement": ("vertical", "horizontal")},
    dvae=DVAEConfig(
        size=32, K=128, width=64, decoder_input=64, groups=2, blocks=1, input_kernel=3, bottleneck=2,
        patch=2, logit_norm=True, likelihood="gaussian",
    ),
    dalle=DALLEConfig(V=512, T=16, K=128, h=8, w=8, D=128, H=4, L=4, kernel=3),
    dvae_training=DVAETraining(
        steps=1200, batch=32, lr=4e-3, muon_lr=0.02, warmup=100, tau=(1.0, 0.2), tau_share=0.8, beta=0.0,
        beta_share=0.0, balance=0.1, clip=50.0, ema=0.995,
    ),
    dalle_training=DALLETraining(
        steps=1900, batch=32, lr=2e-2, muon_lr=0.02, warmup=20, pictures=40_000
    ),
)  # fmt: skip

TINY = Preset(
    name="tiny",
    families=("attributes", "objects", "lettering"),
    dvae=DVAEConfig(
        size=64, K=256, width=128, decoder_input=128, groups=2, blocks=1, input_kernel=3,
        bottleneck=2, patch=4, logit_norm=True, likelihood="gaussian",
    ),
    dalle=DALLEConfig(V=640, T=20, K=256, h=8, w=8, D=256, H=4, L=6, kernel=5),
    dvae_training=DVAETraining(
        steps=8_500, batch=32, lr=3e-3, muon_lr=0.02, warmup=100, tau=(1.0, 0.2), tau_share=0.8, beta=0.0,
        beta_share=0.0, balance=0.2, clip=50.0, ema=0.999,
    ),
    dalle_training=DALLETraining(
        steps=3_300, batch=64, lr=1e-2, muon_lr=0.02, warmup=100, pictures=150_000
    ),
    clip=CLIPConfig(size=64, V=640, T=20, D=96, H=4, L=2, E=96, width=48, halvings=3),
    clip_training=CLIPTraining(
        steps=1600, batch=128, lr=2e-3, muon_lr=0.02, warmup=100, families=1, decoded=0.75, ema=0.99
    ),
)  # fmt: skip

WORLD = Preset(
    name="world",
    families=tuple(FAMILIES),
    dvae=DVAEConfig(
        size=64, K=512, width=96, decoder_input=96, groups=2, blocks=1, input_kernel=3,
        bottleneck=2, patch=4, logit_norm=True, likelihood="gaussian",
    ),
    dalle=DALLEConfig(V=1024, T=20, K=512, h=8, w=8, D=256, H=4, L=4, kernel=5),
    dvae_training=DVAETraining(
        steps=16_000, batch=16, lr=3e-3, muon_lr=0.02, warmup=100, tau=(1.0, 0.2), tau_share=0.8, beta=0.0,
        beta_share=0.0, balance=0.2, clip=50.0, ema=0.999,
    ),
    dalle_training=DALLETraining(
        steps=9_000, batch=64, lr=1e-2, muon_lr=0.02, warmup=100, pictures=360_000
    ),
    clip=CLIPConfig(size=64, V=1024, T=20, D=96, H=4, L=2, E=96, width=48, halvings=3),
    clip_training=CLIPTraining(
        steps=5000, batch=128, lr=2e-3, muon_lr=0.02, warmup=100, families=4, decoded=0.75, ema=0.99
    ),
)  # fmt: skip

SMALL = Preset(
    name="small",
    families=("attributes", "objects", "lettering"),
    dvae=DVAEConfig(
        size=128, K=1024, width=192, decoder_input=128, groups=2, blocks=2, input_kernel=3,
        bottleneck=2, patch=4, logit_norm=True, likelihood="gaussian",
    ),
    dalle=DALLEConfig(V=4096, T=64, K=1024, h=16, w=16, D=384, H=6, L=10, kernel=7),
    dvae_training=DVAETraining(
        steps=20_000, batch=16, lr=2e-3, warmup=200, tau=(1.0, 0.2), tau_share=0.8, beta=0.0, beta_share=0.0,
        balance=0.2, clip=50.0, ema=0.999,
    ),
    dalle_training=DALLETraining(
        steps=12_000, batch=32, lr=5e-3, muon_lr=0.02, warmup=200, pictures=60_000
    ),
)  # fmt: skip

PAPER = Preset(
    name="paper",
    families=(),  # the paper's 250 million pictures are not to be had
    dvae=DVAEConfig(),
    dalle=DALLEConfig(),
    dvae_training=DVAETraining(
        steps=3_000_000, batch=512, lr=1e-4, lr_last=1 / 80, lr_steps=1_200_000, warmup=0,
        tau=(1.0, 1 / 16), tau_share=0.05, beta=6.6,
        beta_share=1 / 600, balance=0.0, clip=float("inf"), ema=0.999,
    ),
    dalle_training=DALLETraining(
        steps=430_000, batch=1024, lr=4.5e-4, muon_lr=None, warmup=5000, pictures=250_000_000,
        dropout=DROPOUT, weight_decay=4.5e-2, ema=0.99, ema_every=25,
    ),
)  # fmt: skip

# Those that can be trained.
PRESETS = {preset.name: preset for preset in (CI, TWO, TINY, WORLD, SMALL)}


def preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError that lists the known ones."""
    known = {**PRESETS, PAPER.name: PAPER}
    if name not in known:
        raise ValueError(f"unknown preset {name!r}; choose one of {', '.join(known)}")
    return known[name]
