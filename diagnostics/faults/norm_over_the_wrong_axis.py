"""A normalisation runs over the positions (or the samples) instead of the features.

Shows as:      a training loss that falls far below what the data allows, and samples that make no sense; a prompt of
               one token is erased; the model fails on lengths that it was not trained on.
Why it hurts:  mean and variance over positions carry every later token into every earlier one: the answer leaks, and
               at generation, where later tokens do not exist, the statistics are others.
Measured by:   normalised-axes: which axis makes each module's output equal its own input normalised, and what else
               moves when one position or sample of that input is edited.
Judged by:     a module that normalises over the time or the batch axis and carries an edit of one position or sample
               into others. Grade: proof.
Looks like:    future-token-leak (the two are redundant: repairing one alone changes nothing), batch-coupling.
Remedy:        nn.LayerNorm(d_model): mean and variance over the last axis, one scale and shift per feature.
Blind spots:   normalisation written out inside a larger module, and batch norm in train mode (see batch-coupling);
               without token arguments, the time axis is a guess and the verdict stays unclear.
Source:        Ba et al. 2016, "Layer Normalization", section 3. ROUNDING: ours, single precision with three digits to
               spare.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.interventions.renormalise import RENORMALISE, turned_norms
from diagnostics.probes.normalised_axes import NORMALISED_AXES, NormalisedAxes, NormalisingModule
from diagnostics.subject import Subject

ROUNDING = 1e-4


def judge(axes: NormalisedAxes) -> Verdict:
    """Present where a module normalises over positions or samples and mixes them."""
    if not axes.modules:
        return not_tested(f"none of the {axes.candidates} modules seen gives its own input normalised")
    wrong = [module for module in axes.modules if mixes(module)]
    numbers = {"normalising modules": float(len(axes.modules)), "over positions or samples": float(len(wrong))}
    if not wrong:
        return absent(
            f"no normalising module ({len(axes.modules)} of them) carries one position or sample into another",
            **numbers,
        )
    names = ", ".join(module.name for module in wrong[:3]) + (", ..." if len(wrong) > 3 else "")
    over = " and ".join(wrong[0].axes)
    largest = max(max(module.other_positions, module.other_samples) for module in wrong)
    if not any(module.axes_known for module in wrong):
        return unclear(
            f"{len(wrong)} of {len(axes.modules)} normalising modules ({names}) work over axes that would be {over}, "
            "but no token argument tells which axis is which",
            **numbers,
        )
    return present(
        f"{len(wrong)} of {len(axes.modules)} normalising modules ({names}) work over {over}: editing one position or "
        f"sample of their input moves others by up to {largest:.2g} standard deviations",
        **numbers,
        movement=largest,
    )


def mixes(module: NormalisingModule) -> bool:
    """Whether a normalisation carries one position or sample into another."""
    return ("time" in module.axes and module.other_positions > ROUNDING) or (
        "batch" in module.axes and module.other_samples > ROUNDING
    )


def plant(subject: Subject) -> Subject:
    """The subject whose layer norms work over the positions.

    Raises:
        ValueError: it has none.
    """
    return turned_norms(subject, 1 - subject.batch_axis)


FAULT = Fault(
    id="norm-over-the-wrong-axis",
    family="model",
    grade="proof",
    concerns="honesty",
    repair_rank=31,
    measured_by=(NORMALISED_AXES,),
    judge=judge,
    plant=plant,
    remedies=(RENORMALISE,),
    looks_like=("future-token-leak", "batch-coupling"),
    wrong="x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)  # x: [batch, time, d_model]",
    right="x = nn.LayerNorm(d_model)(x)  # mean and variance over the last axis",
)
