"""Draw matrices at random that start as one number throughout."""

import torch
from torch import nn

from diagnostics.bench import open_bench, private_randomness
from diagnostics.intervention import Intervention, rebuilt
from diagnostics.probes.symmetry import symmetry
from diagnostics.subject import Subject


def redraw_constants(subject: Subject) -> Subject:
    """The subject whose constant matrices are drawn by Xavier's rule.

    Raises:
        ValueError: it has none.
    """
    with open_bench(subject, 0) as bench:
        names = tuple(name for name, _ in symmetry(bench).constant)
    if not names:
        raise ValueError(f"no matrix of {subject.name} starts as one number throughout; there is nothing to draw")

    def draw(model: nn.Module) -> None:
        sign = float(sum(p.detach().double().sum() for p in model.parameters()))
        with private_randomness(int(abs(sign) * 1e6) % 2**31), torch.no_grad():
            for name in names:
                nn.init.xavier_uniform_(model.get_parameter(name))

    return rebuilt(subject, draw)


REDRAW_CONSTANTS = Intervention(
    name="redraw-constants", does="draw the constant matrices at random (Xavier)", apply=redraw_constants
)
