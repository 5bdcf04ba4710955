"""Fresh models from one that stands: the same scales, other numbers."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diagnostics.copies import model_copy


def redrawn(model: nn.Module) -> Callable[[int], nn.Module]:
    """seed -> a copy of the model in which the entries of every trainable matrix have changed places with each other.

    Whatever initialisation (or training) gave a tensor its scale and its distribution, right or wrong, is kept to the
    last digit; what the model has learned is gone. Rows of zeros stay where they are (padding); tensors that are shared
    or tied stay so; layers that started as copies of each other become independent; tensors with one axis (biases,
    gains of norms), frozen tensors and buffers stay as they are.

    Raises:
        ValueError: the model cannot be copied (when it is called).
    """

    def build(seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        twin, done = model_copy(model), set[int]()
        for parameter in twin.parameters():
            if parameter.requires_grad and parameter.dim() > 1 and parameter.data_ptr() not in done:
                done.add(parameter.data_ptr())
                shuffle(parameter, generator)
        return twin

    return build


@torch.no_grad()
def shuffle(tensor: Float[Tensor, "rows *columns"], generator: torch.Generator) -> None:
    """Let the entries of a tensor change places, in place; rows of zeros stay."""
    full = tensor.flatten(1).ne(0).any(dim=1)
    kept = tensor[full]
    order = torch.randperm(kept.numel(), generator=generator).to(tensor.device)
    tensor[full] = kept.flatten()[order].view(kept.shape)
