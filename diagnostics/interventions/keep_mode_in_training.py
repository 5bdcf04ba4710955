"""Keep the model in the mode in which the training loop hands it to the loss."""

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from diagnostics.intervention import Intervention
from diagnostics.probes.mode import held_in_mode
from diagnostics.subject import Batch, Subject


def keep_mode_in_training(subject: Subject) -> Subject:
    """The subject whose loss and step cannot switch the model to another mode."""

    def loss(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        with held_in_mode(model):
            return subject.loss(model, batch)

    def step(model: nn.Module, optimizer: Optimizer, batch: Batch) -> Float[Tensor, ""]:
        assert subject.step is not None
        with held_in_mode(model):
            return subject.step(model, optimizer, batch)

    return replace(subject, loss=loss, step=None if subject.step is None else step)


KEEP_MODE_IN_TRAINING = Intervention(
    name="keep-mode-in-training",
    does="leave the model in train mode while its training loss is computed",
    apply=keep_mode_in_training,
)
