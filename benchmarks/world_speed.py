"""Pictures a second on one core, family by family: scenes with captions, drawings, both together.

    python benchmarks/world_speed.py [--size 64] [--n 1000] [--json FILE]

Seconds are those of the process, so that another busy program disturbs little. "All" takes the families
in turns, as training does.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from minidalle.world import FAMILIES, SIZES, Family


def seconds(work: Callable[[], object]) -> float:
    """Process seconds of the faster of two runs."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def measure(family: Family, size: int, n: int) -> dict[str, float]:
    """Seconds per scene and per drawing; what a family draws only once is drawn before the clock starts."""
    found = [family.example(i)[0] for i in range(n)]
    for scene in found:
        family.draw(scene, size)
    return {
        "scene": seconds(lambda: [family.example(i) for i in range(n)]) / n,
        "drawing": seconds(lambda: [family.draw(scene, size) for scene in found]) / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, choices=SIZES)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = {name: measure(family, args.size, args.n) for name, family in FAMILIES.items()}
    rows["all"] = {
        part: sum(row[part] for row in rows.values()) / len(FAMILIES) for part in rows["attributes"]
    }
    print(f"per second, {args.size}×{args.size}   scenes  drawings  pictures")
    for name, row in rows.items():
        rates = 1 / row["scene"], 1 / row["drawing"], 1 / (row["scene"] + row["drawing"])
        print(f"{name:20}" + "".join(f"{rate:10,.0f}" for rate in rates))
    if args.json:
        args.json.write_text(
            json.dumps({"size": args.size, "n": args.n, "seconds": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
