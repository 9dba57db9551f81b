"""Schedules: pure functions of the step, so that nothing depends on what ran before.  (Chapters 5, 8)

The paper anneals τ, β and the learning rate along a cosine (appendix A.2) and does not write the
formula down. Ours is the half cosine below.
"""

import math


def cosine(step: int, first: float, last: float, steps: int) -> float:
    """From ``first`` at step 0 to ``last`` at ``steps`` along half a cosine, then constant.

    last + (first − last) · (1 + cos(π · step / steps)) / 2.
    """
    if steps <= 0:
        return last
    share = min(max(step / steps, 0.0), 1.0)
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def warmup(step: int, steps: int) -> float:
    """A factor that rises linearly from 1/steps at step 0 to 1 at ``steps`` − 1, then stays 1."""
    return min(1.0, (step + 1) / steps) if steps > 0 else 1.0


def linear(step: int, first: float, last: float, steps: int) -> float:
    """From ``first`` at step 0 to ``last`` at ``steps`` on a straight line, then constant."""
    if steps <= 0:
        return last
    return first + (last - first) * min(max(step / steps, 0.0), 1.0)
