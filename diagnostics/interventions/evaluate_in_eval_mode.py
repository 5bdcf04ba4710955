"""Run the user's evaluation with the model in eval mode and nothing dropped."""

from dataclasses import replace

from torch import nn

from diagnostics.intervention import Intervention
from diagnostics.probes.generation_agreement import NoDropout
from diagnostics.probes.mode import held_in_mode
from diagnostics.subject import Subject


def evaluate_in_eval_mode(subject: Subject) -> Subject:
    """The subject whose evaluation runs in eval mode, whatever its code says; the mode is as before afterwards."""

    def evaluate(model: nn.Module) -> float:
        assert subject.evaluate is not None
        with held_in_mode(model, training=False), NoDropout():
            return subject.evaluate(model)

    return replace(subject, evaluate=evaluate)


EVALUATE_IN_EVAL_MODE = Intervention(
    name="evaluate-in-eval-mode",
    does="evaluate in eval mode",
    apply=evaluate_in_eval_mode,
    needs=("evaluate",),
)
