"""The model uses tensors that it does not list among its parameters or buffers.

Shows as:      parts that stay as they were drawn; a saved model that gives other outputs once loaded; "expected all
               tensors to be on the same device".
Why it hurts:  ``model.parameters()`` is what the optimizer gets, ``state_dict`` what is saved, ``.to()`` what is moved.
               A module in a plain list, or a tensor that is a plain attribute, is in none of them.
Measured by:   parameters: the ends of the loss's graph beside model.parameters(), and plain attributes in use.
Judged by:     any trainable one (it is not trained), or any constant one. Grade: proof. A constant one is harmless for
               the loss and concerns saving and moving only; the verdict says which it is.
Looks like:    parameters-not-in-the-optimizer, learning-rate-too-low.
Remedy:        nn.ModuleList, nn.ModuleDict or nn.Parameter for what is trained, register_buffer for what is not.
Blind spots:   modules kept in closures or globals are counted but have no name; tensors built anew in each pass.
Source:        torch.nn.Module.register_buffer and torch.nn.ModuleList, documentation.
"""

from torch import nn

from diagnostics.fault import HARMLESS, Fault, Verdict, absent, present
from diagnostics.intervention import rebuilt
from diagnostics.interventions.include_parameters import INCLUDE_PARAMETERS
from diagnostics.probes.parameters import PARAMETERS, Parameters
from diagnostics.subject import Subject

SHOWN = 3  # names in a sentence


def judge(found: Parameters) -> Verdict:
    """Present where the loss depends on tensors that the model does not list."""
    numbers = {
        "trainable tensors": float(len(found.lost)),
        "numbers in them": float(found.lost_elements),
        "constant tensors": float(len(found.plain)),
    }
    if found.lost:
        return present(
            f"the loss depends on {len(found.lost)} trainable tensors ({found.lost_elements:,} numbers) that are not "
            f"in model.parameters(): {shown(found.lost)}; an optimizer over model.parameters() does not train them",
            **numbers,
        )
    if found.plain:
        return present(
            f"{len(found.plain)} constant tensors are plain attributes: {shown(found.plain)}; constant, so harmless "
            "for the loss; concerns saving (not in state_dict) and moving (not reached by .to())",
            **numbers | {HARMLESS: 1.0},
        )
    return absent(
        f"the loss depends on nothing beyond the model's {found.registered} parameters and its buffers", **numbers
    )


def shown(names: tuple[str, ...]) -> str:
    """The first names and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def plant(subject: Subject) -> Subject:
    """The subject with its largest module hidden from its registration."""
    return rebuilt(subject, hide)


def hide(model: nn.Module) -> None:
    """Turn the model's largest leaf module without shared parameters into a plain attribute.

    Raises:
        ValueError: every module shares its parameters or is all that there is.
    """
    name = largest_leaf(model)
    parent = model.get_submodule(name.rpartition(".")[0])
    child = name.rpartition(".")[2]
    if isinstance(parent, nn.ModuleList | nn.Sequential | nn.ModuleDict) or not hasattr(parent, "__dict__"):
        raise ValueError(f"{name} is in a container that registers what it holds; nothing to hide it from")
    module = parent._modules.pop(child)
    vars(parent)[child] = module


def largest_leaf(model: nn.Module) -> str:
    """Name of the leaf with the most parameters among attributes whose parameters nobody else shares."""
    owners: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(name)
    free = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if name
        and next(module.children(), None) is None
        and next(module.parameters(), None) is not None
        and not name.rpartition(".")[2].isdigit()
        and all(len(owners[id(p)]) == 1 for p in module.parameters())
    }
    if not free:
        raise ValueError("the model has no attribute with parameters of its own that could be hidden")
    return max(free, key=lambda name: free[name])


FAULT = Fault(
    id="parameters-not-registered",
    family="model",
    grade="proof",
    concerns="fit",
    repair_rank=60,
    measured_by=(PARAMETERS,),
    judge=judge,
    plant=plant,
    remedies=(INCLUDE_PARAMETERS,),
    follows_from=("forward-without-gradient",),
    looks_like=("parameters-not-in-the-optimizer", "learning-rate-too-low"),
    wrong="self.layers = [Layer() for _ in range(6)]",
    right="self.layers = nn.ModuleList(Layer() for _ in range(6))",
)
