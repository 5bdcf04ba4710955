"""From what people have at hand (a model, a batch, a loss function) to a subject.

Which batches are understood, for a model that returns predictions, (predictions, loss), or something with ``.logits``
and ``.loss``:

- a tensor of tokens: the model reads all but the last of each sample and predicts all but the first;
- ``(inputs, targets)``; ``(source, decoder inputs, targets)``; ``(source, target)`` for a model that takes two inputs
  (then its decoder reads all but the last target and predicts all but the first);
- a dict, or an object with attributes, whose names ``forward`` takes, with the targets under "labels" or the like;
- a list of such batches or a DataLoader. A list that holds two or three tensors of as many samples is one batch.

Which loss functions are understood, in the order in which they are tried: ``loss_fn(model, batch)``,
``loss_fn(model, *batch)``, ``loss_fn(output, batch)``, ``loss_fn(output, targets)``; torch's own losses take outputs
and targets, with a row per target where there are more axes. Of a tensor of tokens, ``loss_fn(output, batch)`` counts
only if the function itself compares with the next token; otherwise it gets targets that are one token ahead. Without
a loss function the model's own loss is taken, and of a tensor of tokens otherwise the cross-entropy of the next token.

Everything is tried on a private copy of the model.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from diagnostics.bench import private_randomness
from diagnostics.copies import model_copy, private_model
from diagnostics.leaves import changed, cloned, leaves
from diagnostics.optimizers import USUAL_RATE, optimizer_factory, schedule_of
from diagnostics.redraw import redrawn
from diagnostics.streams import token_view_of
from diagnostics.subject import Batch, Subject, TokenView
from diagnostics.ways import find_way, parameters_of

FEW = (2, 3)  # tensors in a list that may be one batch


def subject_from(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., Any] | None = None,
    *,
    optimizer: Any = None,
    scheduler: Any = None,
    batch_axis: int = 0,
    build: Callable[..., nn.Module] | None = None,
    heldout: Any = None,
    clip_norm: float | None = None,
    name: str | None = None,
) -> Subject:
    """A subject from a model, a batch (or batches) and a loss function, as this module's docstring lists them.

    Args:
        model: in the state in which its loss stands; never changed.
        batch: one batch, or a list of batches, or a DataLoader: what the loss is computed on.
        loss_fn: None where the model computes its own loss.
        optimizer: the one in use (found again by parameter names; what it lacks or holds too much stays so), a class,
            or a function of a model. None: AdamW at 1e-3, and the name says so.
        scheduler: the one in use, or a function step -> factor on the rate. None: constant.
        batch_axis: the axis of the samples in inputs and outputs (1 for time-first).
        build: a function, with or without a seed, that gives a freshly initialised model. None: copies of the model
            with the entries of every matrix shuffled, which keeps every scale.
        heldout: batches that are never trained on, in the same form. None: there are none.
        clip_norm: largest gradient norm, as the user clips it.
        name: what reports call it; None: the model's class.

    Raises:
        TypeError: the model is no module, or the optimizer is none.
        ValueError: model, batch and loss_fn do not go together; says what was tried, on which shapes, and the way out.
            Also for models that are out of scope: compiled, sharded, scripted, without memory.
    """
    check_scope(model)
    one = is_one_batch(batch)
    place = place_of(model)
    batches = passes_over([batch] if one else batch, place)
    lacks: dict[str, str] = {}
    with private_randomness(0), private_model(model) as private:
        first = first_of(batches)
        with torch.enable_grad():
            way, loss = find_way(private, first, loss_fn, batch_axis)
            if private is not model:
                check_independent(loss, model)
    with private_randomness(0), private_model(model) as private:
        view = token_view_or_reason(way.loss, private, first, batch_axis, lacks)
    with private_randomness(0), private_model(model) as private:
        factory = optimizer_factory(optimizer, model)
        check_optimizer(factory(private))
    return Subject(
        model=model,
        loss=lambda model, batch: way.loss(model, batch).reshape(()),
        batches=batches,
        optimizer=factory,
        build=seeded(build) if build is not None else default_build(model, lacks),
        schedule=None if scheduler is None else schedule_of(scheduler),
        clip_norm=clip_norm,
        heldout=None if heldout is None else passes_over([heldout] if is_one_batch(heldout) else heldout, place),
        whole_data=not one,
        token_view=view,
        batch_axis=batch_axis,
        name=named(name or type(model).__name__, ours=optimizer is None),
        lacks=lacks,
    )


def named(name: str, *, ours: bool) -> str:
    """The name in reports; says where the optimizer is our own choice."""
    return f"{name} (trained with AdamW at {USUAL_RATE:g}, as no optimizer was given)" if ours else name


def check_scope(model: Any) -> None:
    """Raises for what is no model, or one that is out of scope: ValueError with the way out, in one line."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    for module in model.modules():
        kind = type(module).__name__
        if kind == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError("compiled models are out of scope; pass model._orig_mod, or the model before compiling")
        if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
            raise ValueError(f"{kind} is out of scope; pass model.module")
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError("scripted models are out of scope; pass the module that was scripted")
        if kind == "FullyShardedDataParallel":
            raise ValueError("sharded models (FSDP, DTensor) are out of scope; pass the model before sharding")
    for name, parameter in model.named_parameters():
        if torch.nn.parameter.is_lazy(parameter):
            raise ValueError(f"{name} has no shape yet; run the model once before the diagnosis")
        if type(parameter).__name__ == "DTensor" or type(parameter.data).__name__ == "DTensor":
            raise ValueError("sharded models (FSDP, DTensor) are out of scope; pass the model before sharding")
        if parameter.is_meta:
            raise ValueError(f"{name} is on the meta device and has no numbers; load the weights first")


def check_independent(loss: Tensor, model: nn.Module) -> None:
    """Raises ValueError where the loss of a copy still depends on the parameters of the original."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not loss.requires_grad or not trainable:
        return
    gradients = torch.autograd.grad(loss, trainable, allow_unused=True)
    if any(each is not None for each in gradients):
        raise ValueError(
            "the loss of a copy of the model still depends on the original; let loss_fn use the model that it is "
            "given, and let the model hold no function that uses itself"
        )


def check_optimizer(made: Any) -> None:
    """Raises TypeError where a function of a model gave no optimizer."""
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"optimizer gave a {type(made).__name__}; it must be a torch.optim.Optimizer or give one")


def token_view_or_reason(
    loss: Callable[[nn.Module, Batch], Any], model: nn.Module, batch: Batch, batch_axis: int, lacks: dict[str, str]
) -> TokenView | None:
    """The token view, if there is one; otherwise notes why."""
    try:
        return token_view_of(lambda model, batch: loss(model, batch).reshape(()), model, batch, batch_axis)
    except ValueError as error:
        lacks["token_view"] = str(error)
    except Exception as error:  # a stranger's model may not bear edited tokens
        lacks["token_view"] = f"looking for one raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def default_build(model: nn.Module, lacks: dict[str, str]) -> Callable[[int], nn.Module] | None:
    """Copies with shuffled matrices; None, with the reason, where the model cannot be copied."""
    try:
        model_copy(model)
    except ValueError as error:
        lacks["build"] = f"{error}; pass build, a function that gives a freshly initialised model"
        return None
    return redrawn(model)


def seeded(build: Callable[..., nn.Module]) -> Callable[[int], nn.Module]:
    """seed -> a fresh model, whether or not the user's function takes the seed; the caller's random state stays."""
    needed = [p for p in parameters_of(build).values() if p.default is p.empty and p.kind not in (p.VAR_KEYWORD,)]

    def made(seed: int) -> nn.Module:
        with private_randomness(seed):
            return build(seed) if needed else build()

    return made


def place_of(model: nn.Module) -> torch.device | None:
    """The device that all of the model's tensors are on; None where there are several, or no tensors."""
    devices = {each.device for each in (*model.parameters(), *model.buffers())}
    return devices.pop() if len(devices) == 1 else None


def is_one_batch(batch: Any) -> bool:
    """Whether this is one batch, not a list or a loader of several.

    Raises:
        ValueError: it can be read only once, or it is empty.
    """
    if isinstance(batch, Tensor | tuple) or not isinstance(batch, Iterable) or hasattr(batch, "keys"):
        return True
    if isinstance(batch, Iterator):
        raise ValueError("these batches can be read only once; pass a list of batches or a DataLoader")
    if not isinstance(batch, list):
        return False
    if not batch:
        raise ValueError("the list of batches is empty")
    tensors = all(isinstance(each, Tensor) and each.dim() > 0 for each in batch)
    return tensors and len(batch) in FEW and len({len(each) for each in batch}) == 1


def passes_over(batches: Any, place: torch.device | None) -> Callable[[int], Iterator[Batch]]:
    """seed -> a pass over the batches, each on the model's device and with tensors of its own.

    A DataLoader shuffles as it is told to, from the seed; its generator and everybody's random state stay as they are.
    """

    def passes(seed: int) -> Iterator[Batch]:
        loader, generators = reloaded(batches)
        with Randomness(seed, generators) as randomness:
            iterator = iter(loader)
        while True:
            with randomness:
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield moved(cloned(batch), place)

    return passes


class Randomness:
    """A stream of random numbers of its own: entered again, it goes on; left, everybody else's is as before."""

    def __init__(self, seed: int, generators: list[torch.Generator]) -> None:
        self.generators = generators
        with private_randomness(seed):
            self.inside = [random.getstate(), torch.get_rng_state()]
        self.inside += [torch.Generator(each.device).manual_seed(seed).get_state() for each in generators]
        self.outside: list[Any] = []

    def __enter__(self) -> "Randomness":
        self.outside = self._states()
        self._set(self.inside)
        return self

    def __exit__(self, *_: object) -> None:
        self.inside = self._states()
        self._set(self.outside)

    def _states(self) -> list[Any]:
        return [random.getstate(), torch.get_rng_state(), *(each.get_state() for each in self.generators)]

    def _set(self, states: list[Any]) -> None:
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        for generator, state in zip(self.generators, states[2:], strict=True):
            generator.set_state(state)


def reloaded(batches: Any) -> tuple[Any, list[torch.Generator]]:
    """The loader without worker processes (ours may not have children), and the generators that it draws from."""
    from torch.utils.data import DataLoader

    if not isinstance(batches, DataLoader):
        return batches, []
    owners = (batches, batches.sampler, getattr(batches.batch_sampler, "sampler", None))
    found = [getattr(owner, "generator", None) for owner in owners]
    generators = list({id(each): each for each in found if isinstance(each, torch.Generator)}.values())
    if batches.num_workers == 0:
        return batches, generators
    settings: dict[str, Any] = {"collate_fn": batches.collate_fn, "generator": batches.generator}
    if batches.batch_sampler is not None:
        settings["batch_sampler"] = batches.batch_sampler
    else:
        settings |= {"batch_size": batches.batch_size, "drop_last": batches.drop_last}
    return DataLoader(batches.dataset, **settings), generators


def moved(batch: Batch, place: torch.device | None) -> Batch:
    """The batch on the model's device, where that has one device."""
    if place is None or all(leaf.device == place for _, leaf in leaves(batch)):
        return batch
    return changed(batch, lambda path, tensor: tensor.to(place))


def first_of(batches: Callable[[int], Iterator[Batch]]) -> Batch:
    """The first batch of the first pass; raises ValueError where there is none."""
    for batch in batches(0):
        return batch
    raise ValueError("there are no batches to look at")
