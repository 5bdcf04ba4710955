"""Nearly all units behind a ReLU are zero on every input.

Shows as:      a loss that falls to what the frequencies of the targets allow and stays there.
Why it hurts:  where a ReLU gives zero its gradient is zero. A unit that is off for every input never comes back, and a
               layer of them lets neither the input nor a gradient through.
Measured by:   layer-activity: for each ReLU, the share of units that are zero on every input of a few batches.
Judged by:     more than DEAD of one ReLU's units, of the fresh model or of the one that stands, with at least ENOUGH
               units and inputs. Grade: sign. A fifth of dead units is normal in trained networks.
Looks like:    learning-rate-too-high, constant-initialisation.
Remedy:        biases of zero, a lower rate, scaled inputs, or an activation with a slope on both sides (GELU).
Blind spots:   ReLUs written as clamp or maximum; layers that are dead for most inputs, but not for all.
Source:        Lu et al. 2019, "Dying ReLU and Initialization". DEAD and ENOUGH: ours.
"""

from collections.abc import Callable
from typing import Any

from diagnostics.bench import open_bench
from diagnostics.fault import Fault, Verdict, absent, not_tested, present
from diagnostics.intervention import surrounded
from diagnostics.interventions.leaky_relus import LEAKY_RELUS
from diagnostics.probes.layer_activity import LAYER_ACTIVITY, RELUS, LayerActivity, layer_activity
from diagnostics.subject import Subject
from diagnostics.watch import TorchCalls

DEAD = 0.9
ENOUGH = 8
PLANTED = 100.0  # taken off what every ReLU is given, as a bias that one large step left behind


def judge(activity: LayerActivity) -> Verdict:
    """Present where a ReLU's units are nearly all off for good."""
    both = (("fresh", activity.relus), ("standing", activity.standing_relus))
    found = [(share, units, which) for which, relus in both for units, share in relus if units >= ENOUGH]
    if not found or activity.inputs < ENOUGH:
        return not_tested("no ReLU over enough units and inputs was seen")
    share, units, which = max(found)
    numbers = {"dead share": share, "units": float(units)}
    told = f"{share:.0%} of the {units} units behind a ReLU are zero on all inputs of a few batches"
    if share > DEAD:
        return present(f"{told} in the {which} model: they have no gradient either", **numbers)
    return absent(f"at most {told}", **numbers)


class ShiftedRelus(TorchCalls):
    """While active, every ReLU is given numbers that are far below zero."""

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Shift the input of a ReLU."""
        if func in RELUS and args:
            args = (args[0] - PLANTED, *args[1:])
        return func(*args, **kwargs)


def plant(subject: Subject) -> Subject:
    """The subject whose ReLUs are given numbers far below zero.

    Raises:
        ValueError: it calls no ReLU over enough units.
    """
    with open_bench(subject, 0) as bench:
        if not any(units >= ENOUGH for units, _ in layer_activity(bench).relus):
            raise ValueError(f"{subject.name} has no ReLU over at least {ENOUGH} units; there is nothing to kill")
    return surrounded(subject, lambda model, batch: ShiftedRelus())


FAULT = Fault(
    id="dead-relus",
    family="model",
    grade="sign",
    concerns="fit",
    repair_rank=56,
    measured_by=(LAYER_ACTIVITY,),
    judge=judge,
    plant=plant,
    remedies=(LEAKY_RELUS,),
    looks_like=("learning-rate-too-high", "constant-initialisation"),
    follows_from=("learning-rate-too-high", "inputs-not-scaled", "constant-initialisation"),
    wrong="nn.init.constant_(layer.bias, -10.0)\nh = F.relu(layer(x))",
    right="nn.init.zeros_(layer.bias)\nh = F.relu(layer(x))",
)
