"""What was seen of a training script: its events in order, and what they say about the way in which it trains."""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.capture.recorder import Forward


@dataclass(frozen=True, kw_only=True)
class ZeroGrad:
    """Gradients were dropped: those of this optimizer, or of a whole module where ``optimizer`` is None."""

    optimizer: int | None


@dataclass(frozen=True, kw_only=True)
class Backward:
    """Backward was called on a loss.

    Args:
        forward: the calls behind it; None where they cannot be played again, or were not kept any more.
        value: the loss, as a tensor without its graph.
        alive: the script's own tensor, as long as the script keeps it.
        reason: why there is no ``forward``.
        scale: what a gradient scaler multiplied the loss by; ``forward`` and ``value`` are those before it did.
    """

    value: Tensor
    forward: Forward | None
    alive: "weakref.ref[Tensor]"
    reason: str = ""
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Unscale:
    """A gradient scaler took its scale off the gradients of an optimizer."""

    optimizer: int


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Gradients were clipped, by their norm or one by one."""

    kind: Literal["norm", "value"]
    limit: float


@dataclass(frozen=True, kw_only=True)
class Update:
    """An optimizer's step; ``settings`` are those of each of its groups at that time."""

    optimizer: int
    settings: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A pass over a data loader began.

    Args:
        loader: tells loaders apart; ``data`` tells what they read.
        length: its number of batches; 0 where it does not know.
    """

    loader: int
    data: int
    length: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A number that the script read from what its model gave without gradients, in evaluation mode: maybe a loss."""

    forward: Forward


Event = ZeroGrad | Backward | Unscale | Clip | Update | Pass | Reading


@dataclass(frozen=True, kw_only=True)
class Window:
    """What happened for one step of the training loop, in order: up to the last of its optimizers' steps."""

    events: tuple[Event, ...]

    @property
    def backwards(self) -> tuple[Backward, ...]:
        """Every backward pass."""
        return tuple(each for each in self.events if isinstance(each, Backward))

    @property
    def updates(self) -> tuple[Update, ...]:
        """Every optimizer step."""
        return tuple(each for each in self.events if isinstance(each, Update))

    @property
    def scale(self) -> float:
        """What a gradient scaler multiplied the losses by."""
        return max((each.scale for each in self.backwards), default=1.0)

    @property
    def clips(self) -> tuple[Clip, ...]:
        """Every clipping of gradients."""
        return tuple(each for each in self.events if isinstance(each, Clip))


Ending = Literal["enough", "ended", "raised", "interrupted"]


@dataclass(kw_only=True)
class Recording:
    """Everything that was seen of one run of a script.

    Args:
        name: of the script.
        events: in order.
        optimizers: in the order in which they first dropped gradients or stepped.
        schedulers: in the order in which they were made.
        modules: those that were called from outside of any other, in order of their first call.
        initial: the numbers that modules and optimizers held before the first step: (tensor, its value then).
        ending: how the observation ended; ``said`` is the error that the script raised, in one line.
        start_seconds: from the script's first line to its first forward pass.
        seconds: from there to the end.
    """

    name: str
    events: list[Event] = field(default_factory=list)
    optimizers: list[Optimizer] = field(default_factory=list)
    schedulers: list[Any] = field(default_factory=list)
    modules: list[nn.Module] = field(default_factory=list)
    initial: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    ending: Ending = "ended"
    said: str = ""
    start_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def windows(self) -> tuple[Window, ...]:
        """The steps of the training loop."""
        return windows_of(self.events)

    @property
    def steps(self) -> int:
        """How many of them there were."""
        return len(self.windows)


def windows_of(events: Iterable[Event]) -> tuple[Window, ...]:
    """Events cut into steps of the training loop: a new one begins where an optimizer steps that has stepped already,
    right after the last step before that; what comes after the very last step belongs to none."""
    windows: list[Window] = []
    current: list[Event] = []
    for event in events:
        if isinstance(event, Update) and any(event.optimizer == each.optimizer for each in updates_in(current)):
            last = max(index for index, each in enumerate(current) if isinstance(each, Update))
            windows.append(Window(events=tuple(current[: last + 1])))
            current = current[last + 1 :]
        current.append(event)
    ends = [index for index, each in enumerate(current) if isinstance(each, Update)]
    return (*windows, Window(events=tuple(current[: ends[-1] + 1]))) if ends else tuple(windows)


def updates_in(events: Iterable[Event]) -> list[Update]:
    """The optimizer steps among events."""
    return [each for each in events if isinstance(each, Update)]
