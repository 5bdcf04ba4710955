"""The recorded losses keep the graph of every step alive.

Shows as:      memory that grows with every step, steps that get slower, at last a crash for want of memory.
Why it hurts:  a loss tensor holds every node of the graph that computed it; a list of losses holds them for the whole
               run. It moves no loss.
Measured by:   graph-retention: the autograd graphs reachable from the history.
Judged by:     two or more entries with a graph behind them. Grade: proof. One alone may be the step in progress.
Looks like:    nothing that a loss shows; a leak in a data loader grows the same way.
Remedy:        append `loss.item()` (or `loss.detach()`), not `loss`.
Blind spots:   histories handed over as plain numbers after a run that kept tensors.
Source:        PyTorch FAQ, "My model reports out of memory": don't accumulate history across your training loop.
"""

import copy
from dataclasses import replace
from itertools import islice

from diagnostics.bench import passes, private_randomness
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.keep_plain_losses import KEEP_PLAIN_LOSSES
from diagnostics.probes.graph_retention import GRAPH_RETENTION, GraphRetention
from diagnostics.subject import LossHistory, Subject

PLANTED = 7  # losses in the planted history


def judge(retention: GraphRetention) -> Verdict:
    """Present where several recorded losses have a graph behind them."""
    numbers = {"entries with a graph": float(retention.with_graph), "nodes": float(retention.nodes)}
    if not retention.with_graph:
        return absent(f"none of the {retention.entries} recorded losses has a graph behind it", **numbers)
    if retention.with_graph == 1:
        return unclear(
            f"one of {retention.entries} recorded losses has a graph behind it ({retention.nodes} nodes): it may be "
            "the step in progress",
            **numbers,
        )
    return present(
        f"{retention.with_graph} of {retention.entries} recorded losses have a graph behind them, "
        f"{retention.nodes_per_entry} nodes for the newest and {retention.nodes} in the newest {retention.walked}; "
        f"its saved tensors take {retention.saved_bytes / 1e6:.1f} MB",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject with a history of loss tensors, each with the graph that computed it."""
    model = copy.deepcopy(subject.model)
    with private_randomness(0):
        losses = tuple(subject.loss(model, batch) for batch in islice(passes(subject.batches, 0), PLANTED))
    return replace(subject, history=LossHistory(losses=losses))


FAULT = Fault(
    id="history-keeps-the-graph",
    family="optimization",
    grade="proof",
    concerns="neither",
    repair_rank=79,
    measured_by=(GRAPH_RETENTION,),
    judge=judge,
    plant=plant,
    remedies=(KEEP_PLAIN_LOSSES,),
    wrong="losses.append(loss)",
    right="losses.append(loss.item())",
)
