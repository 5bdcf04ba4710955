"""The heads of an attention are joined without a matrix after them.

Shows as:      nothing by itself: measured harmless on the run that taught us.
Why it hurts:  head h can only write into its own d_v entries of the residual stream; heads cannot be mixed before the
               feed-forward block.
Measured by:   attention-output: the first operation after softmax times values in the autograd graph.
Judged by:     attentions whose gathered values go into a sum as they are. Grade: deviation.
Looks like:    nothing that is known to hold a loss up.
Remedy:        one linear map d_model -> d_model behind the joined heads; no outside remedy adds parameters.
Blind spots:   attention whose weights do not come from a softmax; a gate or a norm before the sum leaves it unclear.
               No planting from outside: a map cannot be told from the feed-forward block that follows it.
Source:        Vaswani et al. 2017, section 3.2.2: MultiHead(Q, K, V) = Concat(head_1 ... head_h) W^O.
"""

from diagnostics.fault import Fault, Verdict, absent, not_tested, present, unclear
from diagnostics.probes.attention_output import ATTENTION_OUTPUT, AttentionOutput


def judge(output: AttentionOutput) -> Verdict:
    """Present where gathered values are added without a matrix."""
    numbers = {
        "attentions": float(output.attentions),
        "projected": float(output.projected),
        "added": float(output.added),
    }
    if not output.attentions:
        return not_tested("no attention was seen behind the loss: no softmax whose result multiplies values")
    if output.added:
        return present(
            f"{output.added} of {output.attentions} attentions add what they gathered without a matrix in between",
            **numbers,
        )
    if output.others:
        return unclear(
            f"{len(output.others)} of {output.attentions} attentions are followed by neither a matrix nor a sum "
            f"({', '.join(sorted(set(output.others)))})",
            **numbers,
        )
    return absent(f"all {output.attentions} attentions map what they gathered by a matrix", **numbers)


FAULT = Fault(
    id="no-output-projection",
    family="model",
    grade="deviation",
    concerns="fit",
    repair_rank=50,
    measured_by=(ATTENTION_OUTPUT,),
    judge=judge,
    wrong="x = x + heads.transpose(1, 2).flatten(2)",
    right="x = x + output(heads.transpose(1, 2).flatten(2))  # output = nn.Linear(d_model, d_model)",
)
