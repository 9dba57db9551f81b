"""The examiner: an independent judge that reads every fact off a picture.  (Chapter 12)

A classifier of the family and of every slot, trained on world pictures and on nothing else. It never sees a
generated picture while it learns, and no model, sampler or ranking ever sees it.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from .data import World, batches
from .device import autocast
from .schedules import cosine, warmup
from .show import quiet
from .world import Scene, family

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

    def right(self, pictures: Tensor, scenes: Sequence[Scene], only_below: bool = False) -> Tensor:
        """Whether each picture (B, 3, S, S) is right in its family and in every slot: bool (B,)."""
        return torch.stack(list(self.judge(pictures, scenes).values())).ne(0).all(0)

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """What the heads see of pictures (B, 3, S, S): float32 (B, F), for FID-like figures."""
        return torch.cat([self.body(2 * part - 1) for part in pictures.split(256)])

    @torch.inference_mode()
    def probabilities(self, pictures: Tensor) -> dict[str, Tensor]:
        """For every head the probability of each class: float32 (B, classes), for IS-like figures."""
        answers = [self(part) for part in pictures.split(256)]
        return {head: torch.cat([a[head] for a in answers]).softmax(-1) for head in self.heads}


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
