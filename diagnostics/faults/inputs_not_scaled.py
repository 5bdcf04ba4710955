"""The numbers that the model is given are far from the size that its first layer is made for.

Shows as:      a first loss far above that of guessing, a loss that jumps or creeps; only a tiny rate works.
Why it hurts:  initialisation and learning rate assume inputs of about zero mean and unit variance. Pixels up to 255, or
               raw amounts in thousands, make the first layer's outputs and gradients hundreds of times too large.
Measured by:   data-scale: mean and standard deviation of what the first linear map, convolution or recurrence is given.
Judged by:     a root mean square above LARGE or below SMALL, with no embedding and no normalisation before that map.
               Grade: sign.
Looks like:    learning-rate-too-high, learning-rate-too-low.
Remedy:        subtract the training set's mean and divide by its standard deviation, or divide pixels by 255.
Blind spots:   single features out of scale among many that are not; normalisation written out by hand before the
               first map is seen by its effect only.
Source:        LeCun et al. 1998, "Efficient BackProp", section 4.3. LARGE and SMALL: ours; healthy inputs lie between
               0.1 (sparse pixels in [0, 1]) and 3, raw pixels at 60 to 150.
"""

import math

import torch
from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.scale_inputs import SCALE_INPUTS
from diagnostics.model_call import edited_arguments
from diagnostics.probes.data_scale import DATA_SCALE, DataScale, data_scale
from diagnostics.subject import Subject

LARGE = 20.0
SMALL = 0.01
PLANTED = 64.0  # standard deviation of pixels that nobody divided by 255


def judge(scale: DataScale) -> Verdict:
    """Present where the first map is given numbers of another order of magnitude than one."""
    if scale.input_mean is None or scale.input_std is None:
        return not_tested("the model embeds or normalises what it is given before its first linear map")
    size = math.hypot(scale.input_mean, scale.input_std)
    numbers = {"input mean": scale.input_mean, "input standard deviation": scale.input_std}
    told = (
        f"the first layer is given numbers with mean {scale.input_mean:.3g} and standard deviation "
        f"{scale.input_std:.3g}"
    )
    if size > LARGE:
        return present(f"{told}; about 0 and 1 are usual, and a root mean square above {LARGE:.0f} is large", **numbers)
    if 0 < size < SMALL:
        return present(f"{told}; about 0 and 1 are usual, and a root mean square under {SMALL} is small", **numbers)
    return absent(f"{told}: of the usual size", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose inputs are pixels from 0 to 255, so to say: their standard deviation is 64, their mean as much.

    Raises:
        ValueError: the model is given no floats, or embeds or normalises them first.
    """
    with open_bench(subject, 0) as bench:
        scale = data_scale(bench)
    if not scale.input_std:
        raise ValueError(f"{subject.name} is given no numbers that reach a linear map as they are; nothing to enlarge")
    factor = PLANTED / scale.input_std

    def enlarged(name: str, value: Tensor) -> Tensor:
        return value * factor + PLANTED if value.is_floating_point() and value.dtype != torch.bool else value

    return surrounded(subject, lambda model, batch: edited_arguments(model, enlarged))


FAULT = Fault(
    id="inputs-not-scaled",
    family="data",
    grade="sign",
    concerns="fit",
    repair_rank=52,
    measured_by=(DATA_SCALE,),
    judge=judge,
    plant=plant,
    remedies=(SCALE_INPUTS,),
    looks_like=("learning-rate-too-high", "learning-rate-too-low"),
    wrong="logits = model(images.float())          # 0 to 255",
    right="logits = model((images.float() / 255 - mean) / std)",
)
