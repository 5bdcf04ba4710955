"""One sample of a batch changes the predictions for the others.

Shows as:      a loss that depends on the batch's composition and size; generation, one text at a time, is much worse.
Why it hurts:  the model reads what it cannot have when it is used: the other samples.
Measured by:   sample-influence: replace one sample of the batch, watch the outputs of the others.
Judged by:     others' outputs moving beyond rounding in eval mode, or in train mode with registered batch norms set
               to eval and the same dropout. Grade: proof.
Looks like:    norm-over-the-wrong-axis.
Remedy:        normalise over features, reshape with the batch axis first, and take no mean, sort or top-k over it.
Blind spots:   contrastive losses and mixtures of experts with a capacity couple samples on purpose; registered batch
               norms are taken as meant; a model whose outputs have no batch axis.
Source:        ours: independence of samples is what a mean of per-sample losses assumes. Rounding: 1e-9 in double and
               1e-4 in single precision, three digits above either.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.intervention import rebuilt
from diagnostics.interventions.renormalise import RENORMALISE, turned_norms
from diagnostics.probes.sample_influence import SAMPLE_INFLUENCE, SampleInfluence
from diagnostics.subject import Subject


def judge(influence: SampleInfluence) -> Verdict:
    """Present where another sample's output moves."""
    numbers = {
        "own movement": influence.own,
        "movement of others": influence.others,
        "movement of others in train mode": influence.others_in_training,
    }
    largest = max(influence.others, influence.others_in_training)
    if largest > influence.rounding:
        mode = "eval" if influence.others > influence.rounding else "train"
        return present(
            f"replacing one of {influence.samples} samples moves the outputs of the others by up to {largest:.2g} "
            f"standard deviations in {mode} mode (its own by {influence.own:.2g})",
            **numbers,
        )
    if influence.own <= influence.rounding:
        return unclear(f"replacing a sample moves nothing, not even its own output ({influence.own:.1g})", **numbers)
    return absent(
        f"replacing one of {influence.samples} samples moves its own output by {influence.own:.2g} standard "
        f"deviations and the others' by {largest:.1g}",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject whose normalisation (or, without one, whose first layer's output) is taken over the samples."""
    try:
        return turned_norms(subject, subject.batch_axis)
    except ValueError:
        name = first_layer(subject)

    def standardised(module: nn.Module, args: Any, result: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        spread = result.std(subject.batch_axis, keepdim=True, unbiased=False)
        return (result - result.mean(subject.batch_axis, keepdim=True)) / (spread + 1e-5)

    def hooked(model: nn.Module) -> None:
        model.get_submodule(name).register_forward_hook(standardised)

    return rebuilt(subject, hooked)


def first_layer(subject: Subject) -> str:
    """Name of the first module without children that is called and gives one row of floats per sample.

    Raises:
        ValueError: there is none.
    """
    called: list[str] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, result: Any) -> None:
            if isinstance(result, Tensor) and result.is_floating_point() and result.dim() > 1:
                called.append(name)

        return hook

    with open_bench(subject, 0) as bench:
        for name, module in bench.model.named_modules():
            if name and not list(module.children()):
                module.register_forward_hook(note(name))
        bench.loss()
    if not called:
        raise ValueError("no module of this subject gives a tensor of at least two axes; there is nothing to couple")
    return called[0]


FAULT = Fault(
    id="batch-coupling",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=32,
    measured_by=(SAMPLE_INFLUENCE,),
    judge=judge,
    plant=plant,
    remedies=(RENORMALISE,),
    follows_from=("batch-first-mismatch",),
    looks_like=("norm-over-the-wrong-axis",),
    wrong="x = (x - x.mean(0)) / x.std(0)  # x: [batch, time, d_model]",
    right="x = F.layer_norm(x, x.shape[-1:])",
)
