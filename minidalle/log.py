"""What a run says while it trains: a bar, printed lines, log.jsonl, TensorBoard, live curves.  (Chapter 13)

log.jsonl has one JSON object a line: stage, step, seconds and figures. It is the record; the others are
views of it. ``seconds`` and ``samples_per_second`` come from the clock, everything else from the seed.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from .checkpoint import slug
from .files import write_atomically
from .show import Curves, quiet


class Log:
    """The log of a run. ``path`` None: of a process that is not the first and says nothing.

    An existing file is read, so that a run which goes on adds to it.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.lines = read_lines(path) if path else []
        self.curves = Curves()
        self.board = None
        self.set_seconds(self.lines[-1]["seconds"] if self.lines else 0.0)

    @property
    def seconds(self) -> float:
        """Time spent on the run so far, in every process that worked on it."""
        return time.perf_counter() - self.started

    def set_seconds(self, seconds: float) -> None:
        """Let the clock go on from ``seconds``."""
        self.started = time.perf_counter() - seconds

    def say(self, text: str) -> None:
        """Print a line beside the progress bar."""
        if self.path:
            tqdm.write(text)

    def report(self, stage: str, step: int, **figures: float) -> None:
        """Append one line of figures, unless the log has it. Printed are fewer of them, rounded."""
        if not self.path or any((x["stage"], x["step"]) == (stage, step) for x in self.lines):
            return
        line = {"stage": stage, "step": step, "seconds": round(self.seconds, 1), **figures}
        self.lines.append(line)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        brief = {k: v for k, v in figures.items() if not k.startswith("train_")}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in brief.items())
        self.say(f"{self.seconds:6.0f} s  {stage:<9} step {step:<6} {shown}")
        if self.board:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)
        self.curves.draw(self.lines)

    def restore(self, lines: Sequence[dict], seconds: float) -> None:
        """Make the log what it was at a checkpoint."""
        self.lines = list(lines)
        self.set_seconds(seconds)
        if self.path:
            text = "".join(json.dumps(line) + "\n" for line in self.lines)
            write_atomically(self.path, lambda file: file.write(text.encode()))

    def begin(self, stage: str) -> None:
        """Drop the lines of a stage that starts from nothing, and of those after it."""
        names = [line["stage"] for line in self.lines]
        if stage in names:
            kept = self.lines[: names.index(stage)]
            self.restore(kept, kept[-1]["seconds"] if kept else 0.0)

    def open_board(self, stage: str, step: int) -> None:
        """Write the figures of a stage, from ``step`` on, for TensorBoard too, if that is installed."""
        if not self.path:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        folder = self.path.parent / "tensorboard" / slug(stage)
        self.board = SummaryWriter(str(folder), purge_step=step + 1)

    def close_board(self) -> None:
        """Write out what TensorBoard's file still lacks."""
        if self.board:
            self.board.close()
        self.board = None

    def bar(self, stage: str, steps: int, done: int, batch: int) -> tqdm:
        """A bar over the pictures of a stage: how many a second, and how much time is left."""
        return tqdm(
            total=steps * batch,
            initial=done * batch,
            desc=stage,
            unit="sample",
            disable=quiet() or not self.path,
            leave=False,
        )


def read_lines(path: Path) -> list[dict]:
    """The complete lines of a log; what a killed process began to write at its end is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
