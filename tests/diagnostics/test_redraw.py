"""Fresh models from one that stands: every scale kept, nothing that was learned."""

from functools import partial

import torch
from torch import Tensor, nn

from diagnostics.adapt import subject_from
from diagnostics.bench import open_bench
from diagnostics.redraw import redrawn
from tests.subjects import TRAIN, GruLM, TorchEncoderLM, windows

RATE = partial(torch.optim.AdamW, lr=1e-2)


def held(model: nn.Module) -> list[Tensor]:
    return list(model.state_dict().values())


def test_every_matrix_keeps_its_numbers_in_other_places() -> None:
    model = TorchEncoderLM()
    fresh = redrawn(model)(3)
    for (name, old), new in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(old.sort().values if old.dim() < 2 else old.flatten().sort().values, flat_sorted(new)), name
        assert torch.equal(old, new) == (old.dim() < 2 or bool((old == old.flatten()[0]).all())), name


def flat_sorted(tensor: Tensor) -> Tensor:
    return tensor.flatten().sort().values


def test_a_scale_that_is_wrong_stays_wrong() -> None:
    model = nn.Embedding(23, 16)
    nn.init.normal_(model.weight, mean=0.7, std=11.3)
    fresh = redrawn(model)(0)
    assert torch.allclose(fresh.weight.mean(), model.weight.mean())  # type: ignore[union-attr, operator]
    assert torch.allclose(fresh.weight.std(), model.weight.std())  # type: ignore[union-attr, operator]


def test_the_seed_decides() -> None:
    build = redrawn(nn.Linear(5, 7))
    one, again, other = (build(seed).weight for seed in (3, 3, 4))
    assert torch.equal(one, again)  # type: ignore[arg-type]
    assert not torch.equal(one, other)  # type: ignore[arg-type]


def test_rows_of_zeros_stay_where_they_are() -> None:
    model = nn.Embedding(11, 5, padding_idx=3)
    weight = redrawn(model)(0).weight
    assert not weight[3].any()  # type: ignore[index]
    assert (weight != 0).any(1).sum() == 10  # type: ignore[union-attr, operator]


def test_tied_and_shared_tensors_stay_so() -> None:
    tied = nn.Sequential(nn.Embedding(11, 5), nn.Linear(5, 11, bias=False))
    tied[1].weight = tied[0].weight
    fresh = redrawn(tied)(0)
    assert fresh[0].weight is fresh[1].weight  # type: ignore[index]
    tied[1].weight = nn.Parameter(tied[0].weight.data)
    fresh = redrawn(tied)(0)
    assert fresh[0].weight.data_ptr() == fresh[1].weight.data_ptr()  # type: ignore[index]
    assert torch.equal(flat_sorted(fresh[0].weight), flat_sorted(tied[0].weight))  # type: ignore[index]


def test_layers_that_are_copies_become_independent() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 29, batch_first=True), 2)
    first, second = model.layers
    assert torch.equal(first.linear1.weight, second.linear1.weight)
    first, second = redrawn(model)(0).layers  # type: ignore[misc]
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_frozen_and_constant_tensors_and_buffers_stay() -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 3), nn.BatchNorm1d(3))
    model[0].requires_grad_(False)
    nn.init.constant_(model[1].weight, 0.5)
    fresh = redrawn(model)(0)
    assert all(torch.equal(old, new) for old, new in zip(held(model), held(fresh), strict=True))


def test_a_tiny_transformer_trains_from_it() -> None:
    model, batches = TorchEncoderLM(), list(windows(TRAIN)(0))
    subject = subject_from(
        model, batches, nn.CrossEntropyLoss(), optimizer=lambda m: torch.optim.AdamW(m.parameters(), 1e-2)
    )
    with open_bench(subject, 3) as bench:
        curve = bench.train(bench.one_batch(), 60)
    assert curve[0] > 2.5
    assert curve[-1] < 0.7


def test_what_was_learned_is_gone() -> None:
    batches = list(windows(TRAIN)(0))
    subject = subject_from(
        GruLM(), batches, nn.CrossEntropyLoss(), optimizer=lambda m: torch.optim.AdamW(m.parameters(), 1e-2)
    )
    with open_bench(subject, 3) as bench:
        bench.train(bench.one_batch(), 60)
        fresh = redrawn(bench.model)(0)
        assert float(bench.loss().detach()) < 1.5
        assert float(bench.loss(fresh).detach()) > 2.5
