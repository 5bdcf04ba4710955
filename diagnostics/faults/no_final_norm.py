"""A stack with norms inside hands its stream to the head without a last norm.

Shows as:      a first loss above ln V that grows with depth and with the embedding's scale; saturated outputs.
Why it hurts:  in a pre-norm stack the stream itself is never normalised. Whatever size the embedding has and the layers
               add reaches the head, and the logits grow with it until the softmax is one-hot.
Measured by:   stream-scale: token vectors made four times larger, and what follows them.
Judged by:     the head's input growing by more than FOLLOWS while at least INSIDE of the inputs within the stack keep
               their size. Grade: sign.
Looks like:    embedding-scale, saturated-output.
Remedy:        one more norm between the last layer and the head.
Blind spots:   models that do not embed tokens; a norm right behind the embedding hides the missing one.
Source:        Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", table 1 (pre-LN ends with a
               final norm). FOLLOWS: ours, between a normalised head (1.0) and N(0, 0.02) embeddings, which are
               small beside what the layers add to them. INSIDE: ours; half of the inputs or more in pre-norm stacks,
               none in recurrent ones.
"""

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.interventions.final_norm import FINAL_NORM, without_final_norm
from diagnostics.probes.stream_scale import GAIN, STREAM_SCALE, StreamScale
from diagnostics.subject import Subject

FOLLOWS = 1.5
INSIDE = 0.2
STILL_NORMALISED = 1.05


def judge(scale: StreamScale) -> Verdict:
    """Present where norms inside the stack leave the head's input to the embedding's scale."""
    if scale.head_gain is None:
        return not_tested("no embedded tokens, or no last matrix, were seen")
    numbers = {"head input gain": scale.head_gain, "share of normalised inputs": scale.normalised_inputs}
    followed = f"token vectors times {GAIN:.0f} make the head's input {scale.head_gain:.3g} times larger"
    if scale.head_gain < FOLLOWS:
        return absent(f"{followed}: it does not follow the embedding's scale", **numbers)
    if scale.normalised_inputs < INSIDE:
        return absent(f"{followed}, but nothing inside is normalised either: no pre-norm stack", **numbers)
    return present(
        f"{followed}, although {scale.normalised_inputs:.0%} of the inputs inside keep their size", **numbers
    )


def plant(subject: Subject) -> Subject:
    """The subject without the norm in front of its head.

    Raises:
        ValueError: there is none, or another one behind it (a post-norm stack) normalises the stream just as well.
    """
    planted = without_final_norm(subject)
    with open_bench(planted, 0) as bench:
        gain = STREAM_SCALE.measure(bench).head_gain
    if gain is not None and gain < STILL_NORMALISED:
        raise ValueError(f"another norm stands between the stream of {subject.name} and its head: a post-norm stack")
    return planted


FAULT = Fault(
    id="no-final-norm",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=41,
    measured_by=(STREAM_SCALE,),
    judge=judge,
    plant=plant,
    remedies=(FINAL_NORM,),
    looks_like=("embedding-scale", "saturated-output"),
    wrong="for layer in self.layers:\n    x = layer(x)\nlogits = self.head(x)",
    right="for layer in self.layers:\n    x = layer(x)\nlogits = self.head(self.norm(x))",
)
