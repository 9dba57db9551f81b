"""The examiner: an independent judge that reads every fact off a picture.  (Chapter 12)

A classifier of the family and of every slot, trained on world pictures and on nothing else. It never sees a
generated picture while it learns, and no model, sampler or ranking ever sees it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .bundle import Bundle
from .data import World, batches, to_float
from .device import autocast
from .presets import preset
from .schedules import cosine, warmup
from .show import quiet
from .world import Scene, family

COLUMNS = ("true pictures", "ceiling", "one sample")
EXAMINER_SEED = 1234  # of the examiner's own training scenes
ABSENT = -100  # the target of a slot that a scene does not have; ignored by cross_entropy


class Examiner(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] → logits for the family and for each slot of each family."""

    def __init__(self, families: Sequence[str], size: int):
        super().__init__()
        self.size = size
        self.families = tuple(families)
        self.heads = {"family": self.families}
        for name in self.families:
            for slot, values in family(name).slots.items():
                self.heads[f"{name}/{slot}"] = values
        layers, n, side = [nn.Conv2d(3, 32, 3, padding=1), nn.ReLU()], 32, size
        while side > 4:
            m = min(2 * n, 128)
            layers += [
                nn.Conv2d(n, m, 3, padding=1),
                nn.GroupNorm(1, m),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            n, side = m, side // 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(n * side**2, 256), nn.ReLU())
        self.out = nn.Linear(256, sum(len(values) for values in self.heads.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        sizes = [len(values) for values in self.heads.values()]
        logits = self.out(self.body(2 * x - 1)).split(sizes, dim=-1)
        return dict(zip(self.heads, logits, strict=True))

    def targets(self, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """The true class of every head for each scene, `ABSENT` where it does not apply."""
        rows = {}
        for head, values in self.heads.items():
            owner, _, slot = head.partition("/")
            facts = [
                scene.family if head == "family" else scene.slots.get(slot, None)
                for scene in scenes
            ]
            applies = [head == "family" or scene.family == owner for scene in scenes]
            rows[head] = torch.tensor(
                [values.index(f) if a and f is not None else ABSENT
                 for f, a in zip(facts, applies, strict=True)]
            )  # fmt: skip
        return rows

    @torch.inference_mode()
    def judge(self, pictures: Tensor, scenes: Sequence[Scene]) -> dict[str, Tensor]:
        """Verdicts on pictures (B, 3, S, S): for every head an int64 tensor (B,).

        1 where it reads what the scene says, 0 where it reads something else, −1 where it does not apply.
        """
        verdicts = {}
        targets = self.targets(scenes)
        answers = [self(part) for part in pictures.split(256)]
        for head, target in targets.items():
            guess = torch.cat([answer[head] for answer in answers]).argmax(-1).cpu()
            verdicts[head] = (guess == target).long().where(target != ABSENT, -1)
        return verdicts

    def right(self, pictures: Tensor, scenes: Sequence[Scene]) -> Tensor:
        """Whether each picture (B, 3, S, S) is right in its family and in every slot: bool (B,)."""
        return torch.stack(list(self.judge(pictures, scenes).values())).ne(0).all(0)


def train_examiner(
    data: World, steps: int = 1500, batch: int = 64, lr: float = 2e-3, seed: int = 0
) -> Examiner:
    """Train an examiner on world pictures of one size. Deterministic given the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Examiner([each.name for each in data.families], data.size)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    stream = batches(data, batch, steps)
    bar = tqdm(range(steps), desc="examiner", unit="step", disable=quiet(), leave=False)
    for step in bar:
        pictures, _, scenes = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup(step, 50) * cosine(step, 1.0, 0.01, steps)
        with autocast(pictures.device):
            logits = model(pictures)
        targets = model.targets(scenes)
        losses = [
            F.cross_entropy(logits[head].float(), target)
            for head, target in targets.items()
            if (target != ABSENT).any()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    return model.eval()


class Share(NamedTuple):
    """How many of n pictures were right."""

    right: int
    n: int

    @property
    def value(self) -> float:
        return self.right / self.n

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share."""
        z, p, n = 1.96, self.value, self.n
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
        return middle - half, middle + half

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] of {self.n}"


def scoreboard(
    bundle: Bundle, n: int, seed: int, echo: Callable[[str], object] = print, steps: int = 1500
) -> list[dict]:
    """Shares of right pictures by family and split: of true ones, of reconstructions, of samples.

    n: pictures a cell. The examiner is trained on the spot, at the bundle's size. Chapter 12.
    """
    if n < 1:
        raise ValueError(f"--n must be at least 1, not {n}")
    trained_on = preset(bundle.name)
    size = bundle.dvae.config.size
    data = World(trained_on.families, size, "train", EXAMINER_SEED, trained_on.where)
    examiner = train_examiner(data, steps)
    rows = []
    for name in trained_on.families:
        for split in ("test", "zero-shot"):
            source = World([name], size, split, seed, trained_on.where)
            row = {"family": name, "split": split, **score(bundle, examiner, source, n, seed)}
            echo(f"{name:<12}{split:<11}" + "  ".join(f"{c} {row[c]}" for c in COLUMNS))
            rows.append({k: v._asdict() if isinstance(v, Share) else v for k, v in row.items()})
    return rows


def score(bundle: Bundle, examiner: Examiner, source: World, n: int, seed: int) -> dict[str, Share]:
    """The columns of one row: n pictures each, one sample a caption."""
    examples = [source[i] for i in range(n)]
    scenes = [example.scene for example in examples]
    true = to_float([example.picture for example in examples])
    with torch.inference_mode():
        inputs = [x.to(bundle.device) for x in true.split(64)]
        parts = [bundle.dvae.decode(bundle.dvae.encode(x)).cpu() for x in inputs]
    drawn = bundle.draw([example.caption for example in examples], seed=seed)
    pictures = (true, torch.cat(parts), to_float(drawn.pictures))
    shares = [Share(int(examiner.right(x, scenes).sum()), n) for x in pictures]
    return dict(zip(COLUMNS, shares, strict=True))


SCORES = "## Scores"


def with_scores(card: str, rows: Sequence[dict], seed: int) -> str:
    """A model card with the scoreboard as its last section, in place of an earlier one."""
    lines = [
        SCORES,
        "",
        "Share of pictures in which an independent examiner reads every fact of the caption, with a 95 %",
        "interval. *True pictures* examine the examiner, the *ceiling* is the dVAE's reconstruction of true",
        "pictures, *one sample* is what DALL·E draws first. *zero-shot* are compositions that no training",
        "picture shows. Where the examiner misreads true pictures, the other shares of the row say little.",
        f"From `minidalle examine --seed {seed}`.",
        "",
        "| family | split | pictures | " + " | ".join(COLUMNS) + " |",
        "|---|---|---|" + "---|" * len(COLUMNS),
    ]
    for row in rows:
        shares = [Share(**row[column]) for column in COLUMNS]
        cells = [f"{s.value:.3f} [{s.interval()[0]:.3f}, {s.interval()[1]:.3f}]" for s in shares]
        lines.append(f"| {row['family']} | {row['split']} | {shares[0].n} | {' | '.join(cells)} |")
    return card.split(SCORES)[0].rstrip() + "\n\n" + "\n".join(lines) + "\n"
