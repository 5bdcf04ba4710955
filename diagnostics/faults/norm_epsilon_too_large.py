"""A normalisation divides by an epsilon instead of by its input's deviation.

Shows as:      a loss that falls slowly; outputs of norms that are far smaller than one and follow the input's scale.
Why it hurts:  (x - mean) / sqrt(variance + epsilon) is unit scale only where the epsilon is small beside the variance.
               Beyond that the norm is a constant factor, and nothing is normalised.
Measured by:   norm-epsilon: epsilon and input variance of each of torch's normalisations in a fresh model.
Judged by:     an epsilon of at least LARGE that leaves a root mean square of less than LEFT. Grade: sign.
Looks like:    norm-missing, learning-rate-too-low.
Remedy:        1e-5, as torch has it, or 1e-6.
Blind spots:   normalisation written out by hand.
Source:        Ba et al. 2016 leave epsilon out; torch's default is 1e-5, the largest in common use 1e-3. LEFT: ours, an
               epsilon as large as the variance leaves 0.71.
"""

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.norm_epsilons import NORM_EPSILONS, with_epsilon
from diagnostics.probes.norm_epsilon import NORM_EPSILON, NormEpsilon, norm_epsilon
from diagnostics.subject import Subject

LARGE = 2e-3
LEFT = 0.7
PLANTED = 30.0


def judge(facts: NormEpsilon) -> Verdict:
    """Present where an epsilon outweighs a variance."""
    if facts.epsilon is None or facts.variance is None or facts.left is None:
        return not_tested("no normalisation of torch's own was called")
    numbers = {"epsilon": facts.epsilon, "variance": facts.variance, "left": facts.left}
    told = (
        f"of {facts.calls} normalisations the least effective has an epsilon of {facts.epsilon:.2g} beside a variance "
        f"of {facts.variance:.2g}: it gives a root mean square of {facts.left:.2g}"
    )
    if facts.epsilon >= LARGE and facts.left < LEFT:
        return present(told, **numbers)
    return absent(told, **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose normalisations all have an epsilon of 30.

    Raises:
        ValueError: it calls none of torch's own.
    """
    with open_bench(subject, 0) as bench:
        if not norm_epsilon(bench).calls:
            raise ValueError(f"{subject.name} calls no normalisation of torch's own; there is no epsilon to raise")
    return with_epsilon(subject, PLANTED)


FAULT = Fault(
    id="norm-epsilon-too-large",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=48,
    measured_by=(NORM_EPSILON,),
    judge=judge,
    plant=plant,
    remedies=(NORM_EPSILONS,),
    looks_like=("norm-missing", "learning-rate-too-low"),
    wrong="norm = nn.LayerNorm(d_model, eps=1.0)",
    right="norm = nn.LayerNorm(d_model)",
)
