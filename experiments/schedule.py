"""Learning-rate schedules as pure functions: step -> factor of the base rate.

A step is the number of optimizer steps taken before; the first one is step 0.
"""

import math
from collections.abc import Callable

from experiments.config import RunConfig

LOWEST_COSINE_FACTOR = 0.1
"""Where the cosine ends: a tenth of the peak, as in GPT-3 (Brown et al. 2020, appendix B)."""


def noam(step: int, *, d_model: int, warmup_steps: int) -> float:
    """d_model^-0.5 * min(n^-0.5, n * warmup_steps^-1.5) for the n-th step, n counted from 1.

    Source: Vaswani et al. 2017, section 5.3.
    """
    n = step + 1
    return d_model**-0.5 * min(n**-0.5, n * warmup_steps**-1.5)


def warmup(step: int, *, warmup_steps: int) -> float:
    """A straight line to 1, which the last of `warmup_steps` steps reaches; 1 from then on.

    >>> [warmup(step, warmup_steps=2) for step in range(3)]
    [0.5, 1.0, 1.0]
    """
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def cosine(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine from 1 down to `LOWEST_COSINE_FACTOR` at the last step."""
    if step < warmup_steps:
        return warmup(step, warmup_steps=warmup_steps)
    done = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    height = (1 + math.cos(math.pi * min(1.0, done))) / 2
    return LOWEST_COSINE_FACTOR + (1 - LOWEST_COSINE_FACTOR) * height


def schedule(config: RunConfig, *, total_steps: int) -> Callable[[int], float]:
    """The schedule that a run asks for: step -> factor of `optim.lr`.

    Args:
        config: its `optim` names the schedule.
        total_steps: length of the run in optimizer steps; only the cosine needs it.
    """
    warmup_steps = config.optim.warmup_steps
    if config.optim.schedule == "noam":
        return lambda step: noam(step, d_model=config.model.d_model, warmup_steps=warmup_steps)
    if config.optim.schedule == "cosine":
        return lambda step: cosine(step, warmup_steps=warmup_steps, total_steps=total_steps)
    return lambda step: warmup(step, warmup_steps=warmup_steps)
