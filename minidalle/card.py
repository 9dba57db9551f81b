"""The model card of a run: where its weights come from, and what they scored.  (Chapters 0 and 14)"""

import json
import platform
import subprocess
from functools import partial
from pathlib import Path

import torch

from .bundle import Bundle
from .bundle_files import FRONT_MATTER
from .data import Source, turns
from .device import choose_precision


def run_card(bundle: Bundle, out: Path, seed: int, data: Source) -> str:
    """A model card: where the bundle comes from, and the last figures of each stage, by the log and the
    settings of the run in ``out``."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    last = {line["stage"]: line for line in lines}
    run = json.loads((out / "run.json").read_text())
    sizes = {"dVAE": bundle.dvae, "DALL·E": bundle.dalle}
    sizes |= {"CLIP": bundle.clip} if bundle.clip else {}
    counts = [f"{k} {sum(p.numel() for p in m.parameters()):,}" for k, m in sizes.items()]
    figures = [
        f"- {stage}: " + ", ".join(f"{k} {v:.4g}" for k, v in line.items() if k != "stage")
        for stage, line in last.items()
    ]
    ours = data.label == "world"
    licence = "Licence: CC BY 4.0." if ours else "Licence: to be chosen by who trained them."
    # The hub shows the front matter's licence; ours stands there where none is given.
    front = "" if ours else FRONT_MATTER.replace("cc-by-4.0", "other")
    if bundle.world:
        families = ", ".join(bundle.world.families)
        pictures = f"the training split of `minidalle.world` ({families}), drawn on the fly, and nothing else"
        if more := run["preset"]["dvae_more"]:
            seen = turns([*bundle.world.families, *more])
            pictures += f"; the dVAE saw some families more often than others: {seen}"
    else:
        pictures = f"{data.report().splitlines()[0]}; fingerprint {data.fingerprint}"
    return front + "\n".join(
        [
            f"# minidalle · {bundle.name}",
            "",
            f"Weights for the package beside the book *minidalle*. {licence}",
            "",
            "## Provenance",
            "",
            f"- command: `{command(run, bundle.name, data)} --out …`",
            f"- commit: {', then '.join(run['commits'])}",
            f"- machine: {machine(bundle.device)}",
            f"- minutes: {lines[-1]['seconds'] / 60:.1f}",
            f"- parameters: {', '.join(counts)}",
            f"- data: {pictures}",
            "",
            "## Last figures of each stage",
            "",
            "psnr_hard, codes, perplexity, nats per token and what CLIP found are of the test split.",
            "",
            *figures,
            "",
        ]
    )


def command(run: dict, name: str, data: Source) -> str:
    """What trains such a model again, by the settings of its run; without the folders above the data.

    name: the bundle's, which is the preset's where it learned the preset's own families (`train.name_of`).
    """
    preset, what = run["preset"], data.label
    if what.startswith("hub:"):
        what += "".join(run["data"].partition(",")[1:])  # which columns
    words = [f"minidalle train --data {what} --preset {preset['name']}"]
    if what == "world" and name != preset["name"]:
        words += [f"--family {each}" for each in preset["families"]]
    if run["filtered"] is not None:
        words.append("--filter" if run["filtered"] else "--no-filter")
    words += [f"--powersgd {run['rank']}"] * bool(run["rank"])
    return " ".join([*words, f"--seed {run['seed']}"])


def commit() -> str:
    """The commit of the code that runs, marked if files differ from it; "unknown" outside a checkout."""
    here = Path(__file__).parent
    ask = partial(subprocess.run, cwd=here, capture_output=True, text=True, check=False)
    try:
        if ask(["git", "ls-files", "--error-unmatch", Path(__file__).name]).returncode:
            return "unknown"  # an installed copy, perhaps inside somebody else's checkout
        name = ask(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = ask(["git", "status", "--porcelain", "--", "."]).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return "unknown"
    return (name or "unknown") + (" with local changes" if name and changed else "")


def machine(device: torch.device) -> str:
    """Architecture, processor, precision, Python and PyTorch in one line."""
    dtype, _ = choose_precision(device)
    threads = f"{torch.get_num_threads()} threads"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    system = f"{platform.system()} {platform.machine()}, {where}"
    return f"{system}, {str(dtype)[6:]}, Python {platform.python_version()}, PyTorch {torch.__version__}"
