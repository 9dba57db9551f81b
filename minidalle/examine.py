"""The scoreboard: how often is a picture right in every fact that its caption states?  (Chapter 12)"""

from collections.abc import Callable, Sequence

import torch

from .bundle import Bundle
from .data import World, to_float
from .examiner import EXAMINER_SEED, Examiner, Share, train_examiner
from .presets import preset

COLUMNS = ("true pictures", "ceiling", "one sample")


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
