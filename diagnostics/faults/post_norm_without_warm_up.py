"""A deep post-norm stack is trained at its full learning rate from the first step on.

Shows as:      a loss that falls to what the frequencies of the tokens allow within the first steps and never leaves it.
Why it hurts:  behind a norm on every residual the gradients of the last layers are large at the start. Steps of full
               size throw them to where the early layers get nothing.
Measured by:   residual-paths: how many norms stand on the way from the last attention back to the embedding;
               first-rate: optimizer, rate and schedule at the first step.
Judged by:     at least DEEP norms on that way and as many attentions in a row, an adaptive optimizer with a rate of at
               least HIGH, and a first step at more than half of it. Grade: deviation: it departs from the 2017 recipe
               and is harmless unless a trial says otherwise.
Looks like:    no-warm-up, learning-rate-too-high.
Remedy:        raise the rate linearly over the first steps, or put the norms in front of the branches (pre-norm).
Blind spots:   warm-up done inside the optimizer, or by hand in the training loop. No generic
               planting: depth and the place of the norms are the model's own.
Source:        Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture" (six layers, 5e-4).
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.warm_up import WARM_UP_STEPS, warm_up
from diagnostics.probes.first_rate import FIRST_RATE, FirstRate
from diagnostics.probes.residual_paths import RESIDUAL_PATHS, ResidualPaths

DEEP = 6
HIGH = 5e-4
FULL = 0.5


def judge(paths: ResidualPaths, rate: FirstRate) -> Verdict:
    """Present where many norms stand on the residual way and nothing softens the first steps."""
    if paths.recurrent or paths.norms_on_path is None:
        return not_tested("no way around the layers leads from an attention back to the embedding")
    numbers = {"norms on the way": float(paths.norms_on_path), "rate": rate.rate, "first factor": rate.first_factor}
    told = f"{paths.norms_on_path} norms stand on the residual way of {paths.depth} attentions in a row"
    if min(paths.norms_on_path, paths.depth) < DEEP:
        return absent(f"{told}: no deep post-norm stack", **numbers)
    if not rate.adaptive or rate.rate < HIGH or rate.first_factor <= FULL:
        return absent(f"{told}; the first step is taken at {rate.first_factor * rate.rate:.2g}", **numbers)
    return present(
        f"{told}, and an adaptive optimizer takes its first step at {rate.first_factor * rate.rate:.2g}. This departs "
        "from the 2017 recipe; harmless unless a trial says otherwise",
        **numbers,
    )


FAULT = Fault(
    id="post-norm-without-warm-up",
    family="optimization",
    grade="deviation",
    concerns="fit",
    repair_rank=71,
    measured_by=(RESIDUAL_PATHS, FIRST_RATE),
    judge=judge,
    remedies=(warm_up(WARM_UP_STEPS),),
    looks_like=("no-warm-up", "learning-rate-too-high"),
    wrong="encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(512, 8), num_layers=12)\n"
    "optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)",
    right="layer = nn.TransformerEncoderLayer(512, 8, norm_first=True)\n"
    "encoder = nn.TransformerEncoder(layer, num_layers=12)\n"
    "optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3)",
)
