"""Let no dropout take more than a tenth."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.layer_activity import DROPOUTS
from diagnostics.watch import TorchCalls

USUAL = 0.1  # Vaswani et al. 2017, section 5.4


class DropoutRate(TorchCalls):
    """While active, every dropout in force takes ``change(its own rate)``."""

    def __init__(self, change: Callable[[float], float]) -> None:
        super().__init__()
        self.change = change

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Change the rate of the call."""
        if func in DROPOUTS:
            names: tuple[str, ...] = ("input", "p", "training", "inplace")
            given = dict(zip(names, args, strict=False)) | kwargs
            return func(**given | {"p": self.changed(given.get("p", 0.5))})
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            given = dict(zip(names, args, strict=False)) | kwargs
            return func(**given | {"dropout_p": self.changed(given.get("dropout_p", 0.0))})
        if func is F.multi_head_attention_forward and len(args) > 10:
            args = (*args[:10], self.changed(args[10]), *args[11:])
        return func(*args, **kwargs)

    def changed(self, rate: float) -> float:
        """The new rate; a rate of zero is no dropout and stays."""
        return self.change(rate) if rate > 0 else rate


CAP_DROPOUT = Intervention(
    name="cap-dropout",
    does=f"let no dropout take more than {USUAL:.0%}",
    apply=lambda subject: surrounded(subject, lambda model, batch: DropoutRate(lambda rate: min(rate, USUAL))),
)
