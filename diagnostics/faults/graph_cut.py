"""The gradient is cut off inside the forward pass: what lies before the cut never learns.

Shows as:      a loss that falls to what the layers behind the cut can do with random features, and stays there.
Why it hurts:  ``detach()``, ``.data``, ``no_grad``, a way through numpy or a tensor made anew give the same numbers
               without their history; backward ends there, silently.
Measured by:   gradient-reach: trainable parameters that the loss depends on, by changing them, and that get no
               gradient.
Judged by:     any such parameter that the optimizer holds, tables of embeddings left out, while others do get one.
               Grade: proof.
Looks like:    parameters-without-gradient, parameters-frozen, frozen-embedding, learning-rate-too-low.
Remedy:        take the detach away, or leave these parameters out of the optimizer on purpose.
Blind spots:   a cut on one of two paths; stop-gradients on purpose, whose parameters the optimizer holds all the same.
Source:        torch.Tensor.detach, documentation.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.faults.parameters_not_registered import shown
from diagnostics.intervention import rebuilt
from diagnostics.interventions.undo_detach import UNDO_DETACH
from diagnostics.probes.gradient_reach import GRADIENT_REACH, GradientReach
from diagnostics.subject import Subject


def judge(reach: GradientReach) -> Verdict:
    """Present where the loss depends on parameters that get no gradient, and others get one."""
    if not reach.parameters:
        return not_tested("no parameter of the model is trained")
    numbers = {"reached": float(reach.reached), "cut off": float(len(reach.cut))}
    if not reach.connected or not reach.reached:
        return absent("the loss as a whole leads back to nothing: this is not about a part of the model", **numbers)
    if not reach.cut:
        return absent(f"{reach.reached} of {reach.parameters} trainable parameters get a gradient", **numbers)
    where = f" (the graph ends at {'; '.join(reach.places)})" if reach.places else ""
    return present(
        f"{len(reach.cut)} of {reach.parameters} trainable parameters change the loss and get no gradient: "
        f"{shown(reach.cut)}{where}",
        **numbers,
    )


def plant(subject: Subject) -> Subject:
    """The subject with the output of its first part that can carry it detached.

    Raises:
        ValueError: there is no such part.
    """
    with open_bench(subject, 0) as bench:
        names = [
            name for name, module in bench.model.named_modules() if name and any(True for _ in module.parameters())
        ]
    for name in names:
        changed = rebuilt(subject, detached(name))
        with open_bench(changed, 0) as bench:
            if judge(GRADIENT_REACH.measure(bench)).status == "present":
                return changed
    raise ValueError(f"no part of {subject.name} cuts others off when its output is detached")


def detached(name: str) -> Callable[[nn.Module], None]:
    """Detach the output of the module of this name."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(each.detach() if isinstance(each, Tensor) else each for each in output)
        return output.detach() if isinstance(output, Tensor) else output

    def change(model: nn.Module) -> None:
        model.get_submodule(name).register_forward_hook(hook)

    return change


FAULT = Fault(
    id="graph-cut",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=47,
    measured_by=(GRADIENT_REACH,),
    judge=judge,
    plant=plant,
    remedies=(UNDO_DETACH,),
    looks_like=(
        "parameters-without-gradient",
        "parameters-frozen",
        "frozen-embedding",
        "learning-rate-too-low",
    ),
    follows_from=("memory-not-used",),
    wrong="memory = self.encoder(source).detach()\nscores = self.decoder(target, memory)",
    right="memory = self.encoder(source)\nscores = self.decoder(target, memory)",
)
