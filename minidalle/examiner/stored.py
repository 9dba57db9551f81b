"""The examiner's weights on disk, and its card.  (Chapter 12)

    config.json  examiner.safetensors  README.md (the card)

config.json lists every class of every head, so that an examiner is not taken for one of another world.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..bundle_files import BUNDLED
from ..card import commit, machine
from ..files import (
    compare_mark,
    fingerprint,
    half,
    read_field,
    read_json,
    read_tensors,
    text_fingerprint,
    write_atomically,
    write_json,
    write_tensors,
)
from ..tokenizer import shorten
from .examination import Finding, failures, table, weakest
from .lessons import KEPT
from .network import NOTHING, Examiner

FORMAT = 1
SHIPPED = BUNDLED / "examiner"
STATISTICS = ("running_mean", "running_var")


class AnotherWorld(ValueError):
    """An examiner that learned a world with other families, slots or values."""


def save_examiner(examiner: Examiner, folder: str | Path, card: str) -> Path:
    """Write weights in 16 bit and the card into a folder, made if needed; config.json comes last.

    Raises ValueError for weights beyond 16 bit. The norms' statistics, which can be, stay in 32.
    """
    folder = Path(folder)
    tensors = _weights(examiner)
    statistics = {name: t for name, t in tensors.items() if name.split(".")[-1] in STATISTICS}
    weights = {name: t for name, t in tensors.items() if name not in statistics}
    tensors = {**half("examiner", weights), **statistics}
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "examiner.safetensors", tensors)
    write_atomically(folder / "README.md", lambda file: file.write(card.encode()))
    facts = {"size": examiner.size, "families": list(examiner.families)}
    facts["heads"] = {head: list(values) for head, values in examiner.heads.items()}
    marks = {"config": text_fingerprint(json.dumps(facts)), "examiner": fingerprint(tensors)}
    write_json(folder / "config.json", {"format": FORMAT, **facts, "fingerprints": marks})
    return folder


def load_examiner(size: int = 64, folder: str | Path = SHIPPED) -> Examiner:
    """The examiner that comes with the package, or one from a folder, for pictures of ``size`` pixels.

    Raises FileNotFoundError if a file is missing, `AnotherWorld` if it knows another one, and ValueError if
    it reads pictures of another size or if a file is damaged or of another training. Chapter 12.
    """
    folder = Path(folder)
    for name in ("config.json", "examiner.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no examiner: {name} is missing; train one: minidalle examiner --out FOLDER"
            )
    config = _read_config(folder / "config.json")
    if config["size"] != size:
        raise ValueError(
            f"{folder}: the examiner reads pictures of {config['size']} pixels, not of {size}; "
            "train one for them with train_examiner"
        )
    examiner = _of_this_world(folder / "config.json", config, size)
    path = folder / "examiner.safetensors"
    tensors = _read_weights(path, examiner, config["fingerprints"])
    examiner.load_state_dict({**examiner.state_dict(), **tensors})
    where = "that comes along" if folder == SHIPPED else f"of the folder {folder.name}"
    examiner.origin = f"{where}, fingerprint {config['fingerprints']['examiner']}"
    return examiner.to(memory_format=torch.channels_last).eval()


def _of_this_world(path: Path, config: dict, size: int) -> Examiner:
    """An examiner of these families, untrained. Raises `AnotherWorld` if it read them otherwise."""
    anew = "train it anew: minidalle examiner --out FOLDER"
    try:
        examiner = Examiner(config["families"], size)
    except (ValueError, TypeError) as error:
        reason = shorten(str(error), 200)
        raise AnotherWorld(f"{path}: field families: {reason}; {anew}") from error
    for head in examiner.heads.keys() | config["heads"].keys():
        if list(examiner.heads.get(head, ())) != config["heads"].get(head):
            raise AnotherWorld(
                f"{path}: field heads: the examiner knows another world, in which {shorten(head)} has other "
                f"values; {anew}"
            )
    return examiner


def _weights(examiner: Examiner) -> dict[str, torch.Tensor]:
    """All but the norms' counts of training steps, which nothing needs."""
    return {k: t.detach() for k, t in examiner.state_dict().items() if t.is_floating_point()}


KINDS = {"size": int, "families": list, "heads": dict}


def _read_config(path: Path) -> dict:
    config = read_json(path, FORMAT)
    facts = {name: read_field(path, config, name, kind) for name, kind in KINDS.items()}
    marks = read_field(path, config, "fingerprints", dict)
    for part in ("config", "examiner"):
        read_field(path, marks, part, str, "fingerprints.")
    compare_mark(path, text_fingerprint(json.dumps(facts)), marks)
    return {**facts, "fingerprints": marks}


def _read_weights(path: Path, examiner: Examiner, marks: dict[str, str]) -> dict[str, torch.Tensor]:
    tensors = read_tensors(path, marks)
    shapes = {name: t.shape for name, t in _weights(examiner).items()}
    if shapes != {name: t.shape for name, t in tensors.items()}:
        raise ValueError(f"{path} does not fit config.json: it holds tensors of other shapes")
    return {name: t.float() for name, t in tensors.items()}


# --------------------------------------------------------------------------------------------- the card


CARD = """# minidalle · examiner

The judge of the scoreboard (`minidalle examine`). Licence: CC BY 4.0.

It reads the family and every fact off pictures of {size}×{size} pixels, or says "{nothing}".
It is the measuring instrument and no contestant: nothing that draws, learns to draw or ranks sees it.
So that it can judge zero-shot pictures, it learned from held-out compositions too, with scenes of its own:
from the training split and {learned} in {kept} held-out scenes, told apart by their digest. The pictures
below are of the test split and of the other held-out scenes: it cannot have learned from them. It never
saw a picture that a model made.

## Provenance

- command: `minidalle examiner --seed {seed} --steps {steps} --out …`
- commit: {commit}
- machine: {machine}
- minutes of training: {minutes:.1f}
- parameters: {parameters:,}

## Examination

*read*: share of true pictures, never seen before, in which it reads the fact. *called wrong*: share of wrong
pictures that it finds wrong; *all*: of all families together. *interlaced* is a way to spoil pictures that
it did not learn. To reach: 0.99 in each row; {short} of {rows} are below. The weakest: {weakest}.

{table}
"""


def examiner_card(
    examiner: Examiner, findings: Sequence[Finding], seed: int, steps: int, minutes: float
) -> str:
    """The model card: what the examiner is for, where it comes from, and its whole examination."""
    return CARD.format(
        size=examiner.size,
        nothing=NOTHING,
        learned=KEPT - 1,
        kept=KEPT,
        seed=seed,
        steps=steps,
        commit=commit(),
        machine=machine(torch.device("cpu")),
        minutes=minutes,
        parameters=sum(p.numel() for p in examiner.parameters()),
        short=len(failures(findings)),
        rows=len(findings),
        weakest=weakest(findings),
        table=table(findings),
    )
