"""The scoreboard in words and tables, for a model card and for the terminal.  (Chapter 12)

Takes the plain data that `examine.scoreboard` returns and `minidalle examine --json` writes:

    format          2
    settings        model, n, seed, curve, candidates, batch, precision, examiner, machine
    families        family → split → chance, and column → {right, n, low, high}, a share with its interval
    average         the same for all families together, split → …
    likeness        split → pictures, radii, FID and IS: set of pictures → a figure for every radius; IS is of
                    the families alone, without “nothing of this”, which it counted in format 1
    diversity       split → codes, differ, and set of pictures → {used, perplexity}
    image prompts   split → column → {right, n, low, high}, where the model knows the family "translation"
    curve           N, captions, and split → right, low, high: a figure for every N, where it was asked for
    left out        what could not be computed, and why

The splits are "test", fresh scenes, and "zero-shot", compositions that no training picture shows. Fields may
be added; those that are there keep their meaning as long as the format stays 2.
"""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

TITLE = "## Scores"
SPLITS = {"test": "fresh scenes", "zero-shot": "zero-shot"}
CONTROL = "shuffled captions"

INTRODUCTION = """\
Per cent of pictures in which an independent examiner reads every fact of the caption, with a 95 % interval
(Wilson's), for {n} captions of each family: on the left of fresh scenes, on the right of compositions that no
training picture shows (*zero-shot*). What is fresh is the scene: most captions on the left were also
said of training scenes. *Chance* is how often a true picture of another caption of the family would be right.
*True pictures* examine the examiner: where it misreads them, the rest of the row says little.
The *ceiling* is the dVAE's reconstruction of them, *one sample* what DALL·E draws first{best}."""
CHOSEN = ", *best of {}* what CLIP likes best of so many; the examiner chooses nothing"

CONTROLS = """\
Control: judged by the caption of another picture of the same family, one sample is right in {test} per
cent (zero-shot {zero}). A model that listens falls to about chance times its share of right pictures; chance
is {chance} (zero-shot {zero_chance})."""

PROMPTS = """\
The upper half of a true picture of the family “translation” is given as tokens, the lower half is drawn as
the caption says and judged alone. *Another change*: the same upper half under a caption that asks for another
change, judged by that caption, and by the first one, which should fail. In both rows it is a change that
training pictures of the subject show, so this column says whether the model listens and holds no zero-shot
composition; about two in five of its scenes are of the test split, the others of the training split."""

LIKENESS = """\
FID (lower is better) by the examiner's features, inception score (IS, higher is better) by its probabilities
of the families, “nothing of this” left out and the rest scaled to a sum of 1. Over all families, at the
paper's radii of Gaussian blur in pixels: {n} pictures of each kind, FID against {n} true pictures of other
scenes. The row of true pictures is what a perfect model would get. Such figures compare with each other
only."""

DIVERSITY = """\
How many of {K} image codes occur, their perplexity, and the share of tokens in which two candidates of a
caption differ."""

CURVE = """\
Per cent right when CLIP chooses among N candidates, over {n} captions with one pool of {pool} each: the exact
expectation over all choices of N from the pool. The interval is as if each caption had said yes or no once,
rather too wide than too narrow."""


def with_scores(card: str, board: Mapping) -> str:
    """A model card with the scoreboard as its last section, in place of an earlier one."""
    return card.split(TITLE)[0].rstrip() + f"\n\n{TITLE}\n\n" + section(board) + "\n"


def section(board: Mapping) -> str:
    """The whole scoreboard in Markdown."""
    made = board["settings"]
    command = f"minidalle examine --model … --n {made['n']} --seed {made['seed']}"
    command += f" --curve {made['curve']}" * bool(made["curve"])
    where = f"Of the model “{made['model']}”, by `{command}`, on {made['machine']}; "
    where += f"the examiner: {made['examiner']}."
    parts = [introduction(board), shares(board), where, controls(board)]
    if "image prompts" in board:
        parts += ["### Image prompts", PROMPTS, prompts(board["image prompts"])]
    if "curve" in board:
        size = {"n": board["curve"]["captions"], "pool": board["curve"]["N"][-1]}
        parts += ["### Best of N", CURVE.format(**size), curve(board["curve"])]
    n = board["likeness"]["test"]["pictures"]
    parts += ["### FID, IS and diversity", LIKENESS.format(n=n)]
    parts += [likeness(board["likeness"], figure) for figure in ("FID", "IS")]
    parts += [DIVERSITY.format(K=board["diversity"]["test"]["codes"]), diversity(board)]
    parts += [f"Left out: {reason}." for reason in board["left out"]]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; the first column is of words, the others of figures."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: Mapping) -> str:
    """A share of the board in per cent, with its interval: "95 (89–98)"."""
    value = share["right"] / share["n"]
    return interval(value, share["low"], share["high"])


def interval(value: float, low: float, high: float) -> str:
    """Three shares in per cent."""
    return f"{100 * value:.0f} ({100 * low:.0f}–{100 * high:.0f})"


def columns(board: Mapping) -> list[str]:
    """The columns of shares, in their order, without the control's."""
    half = board["average"]["test"]
    return [name for name in half if name not in ("chance", CONTROL)]


def introduction(board: Mapping) -> str:
    """What the table of shares shows."""
    chosen = [name for name in columns(board) if name.startswith("best of")]
    best = CHOSEN.format(chosen[0].rpartition(" ")[2]) if chosen else ""
    return fill(INTRODUCTION.format(n=board["settings"]["n"], best=best), 110)


def shares(board: Mapping) -> str:
    """A row for each family, and their average."""
    names = columns(board)
    head = [prefix + name for prefix in ("", "zero-shot: ") for name in ("chance", *names)]
    rows = [*board["families"].items(), ("average", board["average"])]
    return table(["family", *head], [row_of(name, row, names) for name, row in rows])


def row_of(name: str, row: Mapping, names: Sequence[str]) -> list[str]:
    """One line of the table of shares."""
    cells = [name]
    for split in SPLITS:
        cells.append(f"{100 * row[split]['chance']:.1f}")
        cells += [percent(row[split][column]) for column in names]
    return cells


def controls(board: Mapping) -> str:
    """What shuffled captions do."""
    test, zero = (board["average"][split] for split in SPLITS)
    return CONTROLS.format(
        test=percent(test[CONTROL]),
        zero=percent(zero[CONTROL]),
        chance=f"{100 * test['chance']:.1f}",
        zero_chance=f"{100 * zero['chance']:.1f}",
    )


def prompts(rows: Mapping) -> str:
    """Image prompts: a row for each split."""
    names = list(rows["test"])
    body = [[SPLITS[s], *[percent(rows[s][name]) for name in names]] for s in SPLITS]
    return table(["", *names], body)


def curve(found: Mapping) -> str:
    """Best of N: a row for each N."""

    def cells(k: int) -> list[str]:
        halves = [found[split] for split in SPLITS]
        return [interval(*(half[key][k] for key in ("right", "low", "high"))) for half in halves]

    body = [[str(N), *cells(k)] for k, N in enumerate(found["N"])]
    return table(["N", *SPLITS.values()], body)


def likeness(found: Mapping, figure: str) -> str:
    """FID or IS: a row for each set of pictures and split, a column for each radius."""
    radii = [f"radius {radius}" for radius in found["test"]["radii"]]
    body = [
        [f"{name}, {SPLITS[split]}", *[f"{value:.2f}" for value in values]]
        for split in SPLITS
        for name, values in found[split][figure].items()
    ]
    return table([figure, *radii], body)


def diversity(board: Mapping) -> str:
    """Codes, perplexity, and differences between candidates."""
    body = []
    for split, words in SPLITS.items():
        found = board["diversity"][split]
        for name, figures in found.items():
            if isinstance(figures, Mapping):
                differ = "" if name == "true pictures" else f"{100 * found['differ']:.0f} %"
                cells = [str(figures["used"]), f"{figures['perplexity']:.1f}", differ]
                body.append([f"{name}, {words}", *cells])
    return table(["", "codes used", "perplexity", "two candidates differ"], body)
