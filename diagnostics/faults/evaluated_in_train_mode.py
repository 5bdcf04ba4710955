"""The validation loss is measured with the model in train mode.

Shows as:      a validation loss that is another one each time it is asked for, and too high; with batch norm, one that
               depends on the validation batches, and a model that learns from them.
Why it hurts:  dropout removes what the model knows while it is asked; batch norms take their statistics from the
               validation data and keep them. Decisions are taken on a number that says something else.
Measured by:   mode: the switches of dropout and batch norm in the first model call of the user's evaluation.
Judged by:     a dropout above zero or a batch norm that works as in training while the user evaluates. Grade: proof.
Looks like:    trained-in-eval-mode.
Remedy:        model.eval() before the evaluation, model.train() after it; give self.training to F.dropout.
Blind spots:   subjects without an evaluation of their own; dropout that is kept on on purpose to estimate uncertainty;
               model calls after the first.
Source:        torch's documentation of nn.Module.eval; ours.
"""

from dataclasses import replace

import torch
from torch import nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.faults.trained_in_eval_mode import refuse_without_modes
from diagnostics.interventions.evaluate_in_eval_mode import EVALUATE_IN_EVAL_MODE
from diagnostics.probes.mode import MODE, Mode, held_in_mode
from diagnostics.subject import Subject

BATCHES = 5  # of the planted evaluation


def judge(mode: Mode) -> Verdict:
    """Present where something is active that belongs to training."""
    if mode.evaluation is None or mode.evaluation_kept is None:
        return not_tested("this subject has no evaluate")
    seen = mode.evaluation
    numbers = {"dropouts on": float(seen.dropouts_on), "batch norms on": float(seen.norms_on)}
    if seen.on:
        held = mode.evaluation_kept.on
        switch = f"{held} of them whatever the mode" if held else "the code never calls model.eval()"
        return present(
            f"while the validation loss is computed, {seen.dropouts_on} dropouts drop and {seen.norms_on} batch norms "
            f"normalise by the batch ({switch})",
            **numbers,
        )
    if not mode.kept.on:
        return absent("no dropout above zero and no batch norm runs in this model: both modes are the same", **numbers)
    return absent(f"none of the {mode.kept.on} layers that have two modes runs as in training", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject with an evaluation that leaves the model in train mode.

    Raises:
        ValueError: it has no layer that works otherwise in training.
    """
    refuse_without_modes(subject)

    def evaluate(model: nn.Module) -> float:
        if subject.evaluate is not None:
            with held_in_mode(model, training=True):
                return subject.evaluate(model)
        model.train()
        with open_bench(subject, 0) as bench, torch.no_grad():
            losses = [subject.loss(model, batch) for batch in bench.heldout_batches(BATCHES)]
        return float(torch.stack(losses).mean())

    return replace(subject, evaluate=evaluate)


FAULT = Fault(
    id="evaluated-in-train-mode",
    family="evaluation",
    grade="proof",
    concerns="evaluation",
    repair_rank=83,
    measured_by=(MODE,),
    judge=judge,
    plant=plant,
    remedies=(EVALUATE_IN_EVAL_MODE,),
    looks_like=("trained-in-eval-mode",),
    wrong="with torch.no_grad():\n    val = loss_of(model, batch)  # no_grad is no eval mode",
    right="model.eval()\nwith torch.no_grad():\n    val = loss_of(model, batch)\nmodel.train()",
)
