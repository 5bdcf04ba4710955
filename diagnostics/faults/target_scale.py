"""A regression is asked for numbers of another order of magnitude than its outputs have.

Shows as:      a loss in the thousands or millions that falls slowly at first; clipped or exploding gradients.
Why it hurts:  a fresh model gives numbers of about one. Until its last bias and weights have grown to the size of the
               targets, all gradients are as large as the targets, and a usual learning rate takes thousands of steps.
Measured by:   data-scale: mean and standard deviation of targets and outputs in mse_loss, l1_loss and their like, or in
               a difference written out by hand.
Judged by:     targets whose mean or standard deviation is above LARGE and more than TIMES the size of the outputs, in a
               loss without classes. Grade: sign.
Looks like:    learning-rate-too-low, inputs-not-scaled.
Remedy:        standardise the targets with the training set's mean and deviation, and undo that when predicting.
Blind spots:   losses that compare in other ways (quotients, likelihoods); targets a few times too large.
Source:        LeCun et al. 1998, "Efficient BackProp", section 4.5. LARGE and TIMES: ours, wide of what bias and last
               layer make up for within some hundred steps.
"""

import math
from collections.abc import Callable
from typing import Any

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.scale_targets import SCALE_TARGETS, paired
from diagnostics.probes.data_scale import DATA_SCALE, DataScale, data_scale
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls

LARGE = 20.0
TIMES = 10.0
PLANTED = 100.0


def judge(scale: DataScale) -> Verdict:
    """Present where the targets are far larger than what a fresh model gives."""
    if scale.target_mean is None or scale.target_std is None or scale.output_std is None or scale.output_mean is None:
        return not_tested("no regression loss was seen")
    numbers = {"target mean": scale.target_mean, "target standard deviation": scale.target_std}
    told = (
        f"targets have mean {scale.target_mean:.3g} and standard deviation {scale.target_std:.3g}, a fresh model's "
        f"outputs {scale.output_mean:.3g} and {scale.output_std:.3g}"
    )
    size = max(abs(scale.target_mean), scale.target_std)
    if size > LARGE and size > TIMES * math.hypot(scale.output_mean, scale.output_std):
        return present(f"{told}; about 0 and 1 are usual", **numbers)
    return absent(told, **numbers)


class LargerTargets(TorchCalls):
    """While active, regression losses compare with targets times a factor plus as much."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Replace the target of a comparison."""
        return paired(func, args, kwargs, output=lambda out: out, target=lambda target: PLANTED * (target + 1))


def plant(subject: Subject) -> Subject:
    """The subject that is asked for numbers a hundred times larger.

    Raises:
        ValueError: it is no regression.
    """
    with open_bench(subject, 0) as bench:
        scale = data_scale(bench)
    if scale.target_std is None:
        raise ValueError(f"{subject.name} is no regression; it has no targets to enlarge")
    return surrounded(subject, lambda model, batch: LargerTargets())


FAULT = Fault(
    id="target-scale",
    family="data",
    grade="sign",
    concerns="fit",
    repair_rank=53,
    measured_by=(DATA_SCALE,),
    judge=judge,
    plant=plant,
    remedies=(SCALE_TARGETS,),
    looks_like=("learning-rate-too-low", "inputs-not-scaled"),
    wrong="loss = F.mse_loss(model(x), price)                    # 250,000",
    right="loss = F.mse_loss(model(x), (price - mean) / std)",
)
