"""Which parameters the gradient of the loss reaches, which it should reach and does not, and where it is cut off."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.watch import TorchCalls

BATCHES = 3  # looked at only where something is missing: a branch may rest on one batch
MOVED = 1e-5  # of the loss: a change beyond rounding
MOST_GROUPS = 24  # forward passes to find out which parts the loss depends on
PLACES = 3
LOOKUPS = (F.embedding, torch.embedding)


@dataclass(frozen=True, kw_only=True)
class GradientReach:
    """Trainable parameters by whether a gradient reaches them. "Numbers" leaves tables of embeddings out.

    Args:
        connected: whether the loss leads back to any parameter.
        parameters: trainable parameters that the optimizer holds.
        reached: those that get a gradient.
        cut: those without one although the loss changes when they do; tables of embeddings left out.
        unused: those without one whose values do not matter to the loss.
        unused_numbers: numbers in these.
        places: where tensors that lead back to parameters went into calls whose results do not: "module: call".
        numbers: numbers in all parameters.
        trainable_numbers: in those that ask for a gradient.
        frozen: parameters with two axes or more that ask for none.
        frozen_numbers: numbers in them.
        frozen_random: numbers in those of them that another fresh model draws anew; None: no other can be made.
    """

    connected: bool
    parameters: int
    reached: int
    cut: tuple[str, ...]
    unused: tuple[str, ...]
    unused_numbers: int
    places: tuple[str, ...]
    numbers: int
    trainable_numbers: int
    frozen: tuple[str, ...]
    frozen_numbers: int
    frozen_random: int | None


class CutWatch(TorchCalls):
    """Notes calls that take something with a graph and give back numbers without one, and the tables looked up."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.inside: list[str] = []
        self.places: dict[str, None] = {}
        self.tables: set[int] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, every call is seen and the module that makes it is known."""
        handles = []
        for name, module in self.model.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(name)))
            handles.append(module.register_forward_hook(self._leave))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        return lambda *_: self.inside.append(name)

    def _leave(self, *_: Any) -> None:
        self.inside.pop()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and see whether it cuts."""
        result = func(*args, **kwargs)
        if func in LOOKUPS:
            self.tables |= {id(each) for each in (*args, *kwargs.values()) if isinstance(each, Tensor)}
        if cuts((*args, *kwargs.values()), result):
            owner = getattr(func, "__self__", None)
            named = getattr(owner, "__name__", None) if func.__name__ == "__get__" else func.__name__
            off = "" if torch.is_grad_enabled() else " under no_grad"
            where = self.inside[-1] if self.inside and self.inside[-1] else "the model" if self.inside else "the loss"
            self.places[f"{where}: {named}{off}"] = None
        return result


def cuts(given: tuple[Any, ...], result: Any) -> bool:
    """Whether numbers with a graph went in and numbers without one came out."""
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.requires_grad:
        return isinstance(result, float) or type(result).__name__ == "ndarray" if with_graph(given) else False
    return with_graph(given)


def with_graph(given: tuple[Any, ...]) -> bool:
    """Whether a tensor with a graph, or a parameter that asks for a gradient, is among these."""
    flat = [e for each in given for e in (each if isinstance(each, list | tuple) else (each,))]
    return any(isinstance(each, Tensor) and each.requires_grad for each in flat)


def reached_by(bench: Bench, named: dict[str, nn.Parameter], index: int, watch: CutWatch) -> set[str] | None:
    """Names of the parameters that get a gradient on one batch; None where the loss has no graph."""
    torch.manual_seed(bench.seed)
    with watch.listening():
        loss = bench.loss(bench.model, bench.batch(index))
    if not loss.requires_grad or not named:
        return None
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}


def matters(bench: Bench, parameters: list[nn.Parameter]) -> bool:
    """Whether the loss changes when these are changed, with the same dropout."""

    def value() -> float:
        torch.manual_seed(bench.seed)
        return float(bench.loss(bench.model, bench.batch(0)))

    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        before = value()
        for parameter in parameters:
            spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
            parameter.add_(torch.randn_like(parameter) * (spread or 0.5))
        after = value()
        for parameter, old in zip(parameters, kept, strict=True):
            parameter.copy_(old)
    return not abs(after - before) <= MOVED * max(1.0, abs(before))


def mattering(bench: Bench, suspects: dict[str, nn.Parameter]) -> set[str]:
    """Names of those that the loss depends on, found part by part of the model."""
    if not suspects or not matters(bench, list(suspects.values())):
        return set()
    depth = next((d for d in (4, 3, 2, 1) if len({part(name, d) for name in suspects}) <= MOST_GROUPS), 1)
    found: set[str] = set()
    for group in sorted({part(name, depth) for name in suspects}):
        names = [name for name in suspects if part(name, depth) == group]
        if matters(bench, [suspects[name] for name in names]):
            found |= set(names)
    return found


def part(name: str, depth: int) -> str:
    """The first components of a parameter's name, its own left out where there are others."""
    return ".".join(name.split(".")[:-1][:depth]) or name


def drawn_anew(bench: Bench, frozen: dict[str, nn.Parameter]) -> int | None:
    """Numbers in those frozen parameters that another fresh model draws anew; None where none can be made."""
    if bench.subject.build is None:
        return None
    if not frozen:
        return 0
    other = dict(bench.subject.build(bench.seed + 1).named_parameters())
    return sum(p.numel() for name, p in frozen.items() if name in other and not torch.equal(p, other[name]))


def gradient_reach(bench: Bench) -> GradientReach:
    """Where the gradient of the loss goes, on a private copy."""
    model = bench.model.train()
    held = {id(p) for group in bench.subject.optimizer(model).param_groups for p in group["params"]}
    everything = {name: p for name, p in model.named_parameters() if p.is_floating_point()}
    named = {name: p for name, p in everything.items() if p.requires_grad and id(p) in held}
    watch = CutWatch(model)
    found = reached_by(bench, named, 0, watch)
    reached = found or set()
    for index in range(1, BATCHES):
        if found is not None and len(reached) < len(named):
            reached |= reached_by(bench, named, index, CutWatch(model)) or set()
    missing = {name: p for name, p in named.items() if name not in reached}
    cut = mattering(bench, missing) if found is not None else set()
    unused = [name for name in missing if name not in cut] if found is not None else []
    body = {name: p for name, p in everything.items() if id(p) not in watch.tables}
    frozen = {name: p for name, p in body.items() if p.dim() > 1 and not p.requires_grad}
    return GradientReach(
        connected=found is not None,
        parameters=len(named),
        reached=len(reached),
        cut=tuple(name for name in named if name in cut and name in body),
        unused=tuple(unused),
        unused_numbers=sum(missing[name].numel() for name in unused),
        places=tuple(watch.places)[:PLACES] if cut else (),
        numbers=sum(p.numel() for p in body.values()),
        trainable_numbers=sum(p.numel() for p in everything.values() if p.requires_grad),
        frozen=tuple(frozen),
        frozen_numbers=sum(p.numel() for p in frozen.values()),
        frozen_random=drawn_anew(bench, frozen),
    )


GRADIENT_REACH = Probe(
    name="gradient-reach",
    question="Does the gradient of the loss reach every parameter that the loss depends on?",
    measure=gradient_reach,
)
