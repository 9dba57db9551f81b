"""What the notebooks have in common: how they begin, and where trained models come from.  (All chapters)"""

from pathlib import Path

import torch

from . import __version__
from .bundle import Bundle, load
from .device import choose_device, choose_precision
from .figures import style
from .presets import preset
from .show import quiet


def begin(seed: int = 0) -> torch.device:
    """Set the look of the figures and PyTorch's seed; say where cells compute, how precisely, and why."""
    style()
    torch.manual_seed(seed)
    device = choose_device()
    dtype, reason = choose_precision(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"minidalle {__version__} on {name}, PyTorch {torch.__version__}")
    print(f"mixed precision: {str(dtype).removeprefix('torch.')}, because {reason}")
    return device


def load_or_train(name: str, folder: str | Path = "runs") -> Bundle:
    """A trained model of a preset: bundled with the package, else an earlier run's, else trained now.

    A new run goes to ``folder/name`` and is found there the next time. Chapters 5 and 8.
    """
    run = Path(folder) / name
    for place in (name, run):
        try:
            return load(place)
        except FileNotFoundError:
            continue
    from .train import train

    if not quiet():
        print(f"there are no weights of {name!r} yet; training them into {run}")
    return train(preset(name), run).to(choose_device())
