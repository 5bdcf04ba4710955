"""The model is trained in eval mode.

Shows as:      a training loss that is as smooth as a validation loss; batch norms whose statistics never move; the
               settings of dropout change nothing.
Why it hurts:  nothing is dropped, so a model that should be held back learns by heart; batch norms divide by the
               numbers that they were built with, which normalises nothing.
Measured by:   mode: the switches of dropout and batch norm in the user's loss or step, beside the same loss with the
               model held in train mode.
Judged by:     layers that work in train mode, none of which does in the loss or step although the model was handed over
               in train mode. Grade: proof.
Looks like:    evaluated-in-train-mode, where it is the other way round.
Remedy:        call model.train() before the training steps, and again after every evaluation.
Blind spots:   a loop that forgets model.train() after an evaluation outside of loss and step; parts switched off with
               parameters that need no gradient, and batch norms alone, are taken as frozen on purpose.
Source:        torch's documentation of nn.Module.eval; ours.
"""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, present, unclear
from diagnostics.interventions.keep_mode_in_training import KEEP_MODE_IN_TRAINING
from diagnostics.probes.mode import MODE, Mode, held_in_mode, watched
from diagnostics.subject import Batch, Subject


def judge(mode: Mode) -> Verdict:
    """Present where every layer that has two modes is in the wrong one."""
    trained, name = (mode.loss, "loss") if mode.step is None else (mode.step, "step")
    numbers = {"layers in train mode": float(trained.on), "layers that could be": float(mode.kept.on)}
    layers = f"{mode.kept.dropouts_on} dropouts and {mode.kept.norms_on} batch norms"
    if not mode.kept.on:
        return absent("no dropout above zero and no batch norm runs in this model: both modes are the same", **numbers)
    if not trained.on:
        return present(
            f"the model was handed over in train mode, where {layers} are active, and none of them is while the "
            f"training {name} is computed: the code switches the model to eval mode",
            **numbers,
        )
    lost = mode.kept.dropouts_on - mode.loss.dropouts_on
    if mode.step is None and lost > 0 and not mode.frozen:
        return present(
            f"{lost} of {mode.kept.dropouts_on} dropouts are switched off while the training loss is computed, though "
            "every parameter is trained: the code switches parts of the model to eval mode",
            **numbers,
        )
    if mode.step is None and trained.on < mode.kept.on:
        return unclear(
            f"{trained.on} of {mode.kept.on} such layers run in train mode: the rest looks frozen", **numbers
        )
    return absent(f"{layers} are active in training, and the {name} leaves them so", **numbers)


def plant(subject: Subject) -> Subject:
    """The subject whose loss and step switch the model to eval mode first.

    Raises:
        ValueError: it has no layer that works otherwise in training.
    """
    refuse_without_modes(subject)

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        return subject.loss(model.eval(), batch)

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Float[Tensor, ""]:
        assert subject.step is not None
        with held_in_mode(model, training=False):
            return subject.step(model, optimizer, batch)

    return replace(subject, loss=loss, step=None if subject.step is None else step)


def refuse_without_modes(subject: Subject) -> None:
    """Raises ValueError where both modes are the same."""
    with open_bench(subject, 0) as bench, held_in_mode(bench.model, training=True):
        if not watched(lambda: bench.loss()).on:
            raise ValueError(f"{subject.name} has no dropout above zero and no batch norm: both modes are the same")


FAULT = Fault(
    id="trained-in-eval-mode",
    family="optimization",
    grade="proof",
    concerns="honesty",
    repair_rank=66,
    measured_by=(MODE,),
    judge=judge,
    plant=plant,
    remedies=(KEEP_MODE_IN_TRAINING,),
    looks_like=("evaluated-in-train-mode",),
    wrong="model.eval()\nloss = loss_of(model, batch)\nloss.backward()",
    right="model.train()\nloss = loss_of(model, batch)\nloss.backward()",
)
