"""A script that turns its batches on the way: the batch is what lies as the model takes it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diagnostics.capture.captured import captured
from diagnostics.capture.observer import Observer
from diagnostics.capture.recording import Recording

VOCAB, WIDTH, SAMPLES, TIMES = 11, 6, 5, 7


class TimeFirst(nn.Module):
    """A model of [time, sample] tables that carries a state from one time to the next."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.cell, self.head = nn.Embedding(VOCAB, WIDTH), nn.GRU(WIDTH, WIDTH), nn.Linear(WIDTH, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores of the next token."""
        return self.head(self.cell(self.tokens(tokens))[0])


TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "t": Tensor.t,
    "transpose": lambda table: table.transpose(0, 1),
    "T": lambda table: table.T,
    "permute": lambda table: table.permute(1, 0),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_table_that_is_turned_in_the_loop_lies_time_first(turn: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, recording = TimeFirst(), Recording(name="turned.py")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with Observer(recording):
        for _ in range(4):
            rows = torch.randint(VOCAB, (SAMPLES, TIMES + 1))
            inputs, targets = turn(rows[:, :-1]), turn(rows[:, 1:])
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = captured(recording)
    batch = next(found.subject.batches(0))
    assert found.reproduction.exact
    assert {tuple(table.shape) for table in batch.values()} == {(TIMES, SAMPLES)}
    assert found.subject.batch_axis == 1
    assert found.subject.token_view is not None
