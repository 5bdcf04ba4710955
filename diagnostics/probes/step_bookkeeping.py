"""What one optimizer step really does, watched from outside: gradients before, at and after it, and the update."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from diagnostics.bench import Bench
from diagnostics.probe import Probe
from diagnostics.subject import Batch
from diagnostics.watch import TorchCalls

CALLS = 2  # the second call shows what the first one left behind
MOST_CALLS = 33  # where nothing moves, the loop may be gathering gradients over calls
CRITERIA = (
    F.cross_entropy, F.nll_loss, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
)  # fmt: skip
LOG_SOFTMAXES = (F.log_softmax, torch.log_softmax, Tensor.log_softmax)


@dataclass(frozen=True, kw_only=True)
class StepBookkeeping:
    """A few optimizer steps of a private copy. "Data gradient" is that of the subject's own loss on the same batch.

    Args:
        own_step: whether the subject brings a loop body of its own.
        calls: loop bodies run.
        optimizer_steps: calls of ``optimizer.step`` by any optimizer that holds a parameter of the model.
        stranger_steps: calls by an optimizer that holds none.
        closures: whether backward ran inside ``optimizer.step``.
        backwards: most backward passes that reached one parameter before the first update.
        calls_before_step: loop bodies begun until the first ``optimizer.step``; 0 where there was none.
        parameters: trainable parameters.
        moved: those whose value changed.
        held: those that a stepping optimizer holds.
        stale_share: of the parameters just stepped on, the share whose old gradient was still there, not zero, when
            the next backward reached them. None: never seen.
        zeroed_steps: optimizer steps that saw no gradient although backward had brought one since the last step.
        data_gradient: norm of the data gradient, mean over the calls before the first step.
        summed_gradient: norm of what backward had gathered before the first step.
        summed_along: cosine between the two. None where one is missing, as below.
        summed_scale: projection of the gathered gradient on the data gradient: 1 if it is the same.
        stepped_scale: the same for the gradient that ``optimizer.step`` saw first.
        stepped_norm: its norm.
        update_along: cosine of the first update with the data gradient: negative goes downhill.
        uphill_share: share of the parameters whose first update goes along their data gradient.
        relative_update: norm of the first update over the norm of the weights.
        criterion_slope: largest derivative of the loss by a criterion inside it (cross_entropy, mse_loss ...), or by
            minus a log-probability: negative where the loss falls as the criterion rises. None: no criterion seen.
        rates: learning rate of the first group at each optimizer step.
        maximize: whether a group asks to go uphill.
        finite: whether the gathered gradient is finite.
    """

    own_step: bool
    calls: int
    optimizer_steps: int
    stranger_steps: int
    closures: bool
    backwards: int
    calls_before_step: int
    parameters: int
    moved: int
    held: int
    stale_share: float | None
    zeroed_steps: int
    data_gradient: float
    summed_gradient: float
    summed_along: float | None
    summed_scale: float | None
    stepped_scale: float | None
    stepped_norm: float | None
    update_along: float | None
    uphill_share: float | None
    relative_update: float | None
    criterion_slope: float | None
    rates: tuple[float, ...]
    maximize: bool
    finite: bool


class CriterionWatch(TorchCalls):
    """Keeps what criteria and log-softmaxes gave while the loss was computed."""

    def __init__(self) -> None:
        super().__init__()
        self.criteria: list[Tensor] = []
        self.log_probabilities: list[Tensor] = []

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Let the call happen and keep its result."""
        result = func(*args, **kwargs)
        if func in CRITERIA:
            self.criteria.append(result)
        elif func in LOG_SOFTMAXES:
            self.log_probabilities.append(result)
        return result


def criterion_slope(loss: Float[Tensor, ""], watch: CriterionWatch) -> float | None:
    """The largest derivative of the loss by any criterion in it, or by minus any log-probability; None without one.

    Of a tensor of derivatives the one of largest size counts: most of those by log-probabilities are zero.
    """
    signed = [(t, 1.0) for t in watch.criteria] + [(t, -1.0) for t in watch.log_probabilities]
    signed = [(tensor, sign) for tensor, sign in signed if tensor.requires_grad]
    if not signed or not loss.requires_grad:
        return None
    tensors = [tensor for tensor, _ in signed]
    slopes = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    found = [
        sign * float(slope.detach().flatten()[slope.abs().argmax()])
        for slope, (_, sign) in zip(slopes, signed, strict=True)
        if slope is not None and bool(slope.any())
    ]
    return max(found, default=None)


Gradients = dict[str, Tensor]


def dense(gradient: Tensor) -> Tensor:
    """A copy without a graph, in single precision at least, not sparse."""
    gradient = gradient.detach()
    full = gradient.to_dense() if gradient.is_sparse else gradient.clone()
    return full if full.dtype == torch.float64 else full.float()


def data_gradient(bench: Bench, model: nn.Module, batch: Batch) -> tuple[Gradients, float | None]:
    """Gradient of the subject's own loss by every parameter that it reaches, and the slope of its criterion."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with CriterionWatch() as watch:
        loss = bench.loss(model, batch)
    if not loss.requires_grad or not named:
        return {}, None
    slope = criterion_slope(loss, watch)
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: dense(g) for name, g in zip(named, gradients, strict=True) if g is not None}, slope


def norm(gradients: Gradients) -> float:
    """Length over all of them."""
    return float(torch.stack([g.norm() for g in gradients.values()]).norm()) if gradients else 0.0


def product(first: Gradients, second: Gradients) -> float:
    """Inner product over the parameters that both have."""
    return sum((float((first[name] * second[name]).sum()) for name in first.keys() & second.keys()), 0.0)


def cosine(first: Gradients, second: Gradients) -> float | None:
    """Cosine between the two over the parameters that both have; None where one of them is nothing."""
    names = first.keys() & second.keys()
    size = norm({name: first[name] for name in names}) * norm({name: second[name] for name in names})
    return product(first, second) / size if size > 0 else None


def scale(gradients: Gradients, unit: Gradients) -> float | None:
    """How many times ``unit`` lies in ``gradients``; None where one of them is nothing."""
    square = product(unit, {name: g for name, g in unit.items() if name in gradients})
    return product(gradients, unit) / square if square > 0 and gradients else None


@dataclass
class StepWatch:
    """Listens to backward and to every optimizer while some loop bodies run on one model."""

    model: nn.Module
    steps: int = 0
    stranger_steps: int = 0
    closures: bool = False
    zeroed_steps: int = 0
    backwards: dict[str, int] = field(default_factory=dict)
    summed: Gradients = field(default_factory=dict)
    stepped: Gradients = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    rates: list[float] = field(default_factory=list)
    maximize: bool = False
    stale: dict[str, bool] = field(default_factory=dict)
    _arrived: set[str] = field(default_factory=set)
    _spent: set[str] = field(default_factory=set)
    _old: dict[str, bool] = field(default_factory=dict)
    _inside: bool = False

    def __post_init__(self) -> None:
        self.named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self._names = {id(p): name for name, p in self.named.items()}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, every backward pass and every optimizer step is noted."""
        with ExitStack() as stack:
            for name, parameter in self.named.items():
                stack.callback(parameter.register_hook(self._before(name)).remove)
                stack.callback(parameter.register_post_accumulate_grad_hook(self._after(name)).remove)
            stack.callback(register_optimizer_step_pre_hook(self._step_begins).remove)
            stack.callback(register_optimizer_step_post_hook(self._step_ends).remove)
            yield

    def _before(self, name: str) -> Callable[[Tensor], None]:
        def hook(_: Tensor) -> None:
            if name in self._spent:
                old = self.named[name].grad
                self._old[name] = old is not None and bool(dense(old).any())

        return hook

    def _after(self, name: str) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            assert parameter.grad is not None
            self.closures |= self._inside
            if name in self._spent:  # here, as torch.autograd.grad adds nothing to what was there
                self.stale[name] = self._old[name]
                self._spent.discard(name)
            if bool(dense(parameter.grad).any()):
                self._arrived.add(name)
            if not self.steps:
                self.backwards[name] = self.backwards.get(name, 0) + 1
                self.summed[name] = dense(parameter.grad)

        return hook

    def _owned(self, optimizer: Optimizer) -> list[str]:
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        return [self._names[key] for key in held if key in self._names]

    def _step_begins(self, optimizer: Optimizer, *_: Any) -> None:
        owned = self._owned(optimizer)
        if not owned:
            self.stranger_steps += 1
            return
        self._inside = True
        gradients = {name: grad for name in owned if (grad := self.named[name].grad) is not None}
        seen = {name: dense(grad) for name, grad in gradients.items()} if not self.held >= set(owned) else gradients
        self._sees = any(bool(dense(grad).any()) for grad in seen.values())
        self._expected = bool(self._arrived & set(owned))
        for name in set(owned) - self.held:
            if name in seen:
                self.stepped[name] = seen[name]
        self.held |= set(owned)
        self.rates.append(float(optimizer.param_groups[0]["lr"]))
        self.maximize |= any(bool(group.get("maximize")) for group in optimizer.param_groups)

    def _step_ends(self, optimizer: Optimizer, *_: Any) -> None:
        owned = self._owned(optimizer)
        if not owned:
            return
        self._inside = False
        self.steps += 1
        self.zeroed_steps += self._expected and not self._sees and not self.closures
        self._arrived -= set(owned)
        for name in owned:
            grad = self.named[name].grad
            if grad is not None and bool(dense(grad).any()):
                self._spent.add(name)


def usual(bench: Bench) -> Callable[[nn.Module, Optimizer, Batch], Tensor]:
    """The subject's own loop body, or the usual order where it brings none."""

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = bench.loss(model, batch)
        loss.backward()
        if bench.subject.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), bench.subject.clip_norm)
        optimizer.step()
        return loss

    return bench.subject.step or step


def values(model: nn.Module) -> Gradients:
    """A copy of every trainable parameter, in its own precision."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def changes(before: Gradients, after: Gradients) -> Gradients:
    """What changed, of the parameters that did."""
    return {name: dense(after[name]) - dense(old) for name, old in before.items() if not same(after[name], old)}


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers, not-a-number included."""
    return torch.equal(first.nan_to_num(), second.nan_to_num())


def step_bookkeeping(bench: Bench) -> StepBookkeeping:
    """A few of the subject's own optimizer steps, on a private copy."""
    model = bench.model.train()
    optimizer, step = bench.subject.optimizer(model), usual(bench)
    watch = StepWatch(model)
    first = before = values(model)
    gathered: list[Gradients] = []
    slope: float | None = None
    update: Gradients = {}
    calls, began = 0, 0
    while calls < CALLS or not (update or watch.steps or watch.stranger_steps or calls >= MOST_CALLS):
        batch = bench.batch(calls % CALLS)
        if not watch.steps:
            torch.manual_seed(bench.seed)
            gradients, slope = data_gradient(bench, model, batch)
            gathered.append(gradients)
        torch.manual_seed(bench.seed)
        with watch.listening():
            step(model, optimizer, batch)
        calls += 1
        began = began or (calls if watch.steps else 0)
        if not update:
            update = changes(before, after := values(model))
            before = after
    return measured(watch, bench.subject.step is not None, calls, began, gathered, slope, first, update)


def measured(
    watch: StepWatch,
    own_step: bool,
    calls: int,
    began: int,
    gathered: list[Gradients],
    slope: float | None,
    first: Gradients,
    update: Gradients,
) -> StepBookkeeping:
    """The facts that a watch and the tensors around it come to."""
    names = set().union(*gathered)
    data = {name: sum_of([g[name] for g in gathered if name in g]) / len(gathered) for name in names}
    moved = changes(first, values(watch.model))
    along = {name: product({name: update[name]}, {name: data[name]}) for name in update.keys() & data.keys()}
    directed = [value for value in along.values() if value != 0]
    length, size = norm(update), norm({name: dense(first[name]) for name in update})
    summed = norm(watch.summed)
    return StepBookkeeping(
        own_step=own_step,
        calls=calls,
        optimizer_steps=watch.steps,
        stranger_steps=watch.stranger_steps,
        closures=watch.closures,
        backwards=max(watch.backwards.values(), default=0),
        calls_before_step=began,
        parameters=len(watch.named),
        moved=len(moved),
        held=len(watch.held),
        stale_share=sum(watch.stale.values()) / len(watch.stale) if watch.stale else None,
        zeroed_steps=watch.zeroed_steps,
        data_gradient=norm(data),
        summed_gradient=summed,
        summed_along=cosine(watch.summed, data),
        summed_scale=scale(watch.summed, data),
        stepped_scale=scale(watch.stepped, data),
        stepped_norm=norm(watch.stepped) if watch.stepped else None,
        update_along=cosine(update, data),
        uphill_share=sum(value > 0 for value in directed) / len(directed) if directed else None,
        relative_update=length / size if size > 0 else None,
        criterion_slope=slope,
        rates=tuple(watch.rates),
        maximize=watch.maximize,
        finite=summed == summed and abs(summed) != float("inf"),
    )


def sum_of(tensors: list[Tensor]) -> Tensor:
    """Their sum."""
    return torch.stack(tensors).sum(0)


STEP_BOOKKEEPING = Probe(
    name="step-bookkeeping",
    question="What does one optimizer step really do with the gradient of the loss?",
    measure=step_bookkeeping,
)
