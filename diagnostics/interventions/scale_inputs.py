"""Give the model inputs of mean zero and standard deviation one."""

from torch import Tensor

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.model_call import edited_arguments
from diagnostics.probes.data_scale import data_scale
from diagnostics.subject import Subject


def scale_inputs(subject: Subject) -> Subject:
    """The subject whose model is given its floats less their mean and divided by their standard deviation.

    Mean and deviation are those of the first batch, the same for every later one.

    Raises:
        ValueError: the model is given no floats that reach a linear map as they are, or they are all the same.
    """
    with open_bench(subject, 0) as bench:
        scale = data_scale(bench)
    if scale.input_mean is None or not scale.input_std:
        raise ValueError(f"{subject.name} is given no numbers that reach a linear map as they are; nothing to scale")
    mean, std = scale.input_mean, scale.input_std

    def scaled(name: str, value: Tensor) -> Tensor:
        return (value - mean) / std if value.is_floating_point() else value

    return surrounded(subject, lambda model, batch: edited_arguments(model, scaled))


SCALE_INPUTS = Intervention(
    name="scale-inputs", does="give the model inputs of mean zero and standard deviation one", apply=scale_inputs
)
