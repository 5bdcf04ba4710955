"""A recording is played again on a copy: the script's own model, modes, rates and random numbers are left alone."""

import math
import weakref

import torch
from torch import nn
from torch.optim import SGD

from diagnostics.capture.optimization import factories_of
from diagnostics.capture.recording import Backward, Clip, Unscale, Update, Window, ZeroGrad
from diagnostics.capture.replay import Reproduction, as_seen, in_usual_order, repeat, reproduced, set_mode
from diagnostics.capture.replica import replica_of
from tests.diagnostics.capture.training import Training, network

Z, S = ZeroGrad(optimizer=0), Unscale(optimizer=0)
B = Backward(value=torch.tensor(2.0), forward=None, alive=weakref.ref(torch.tensor(2.0)))
C = Clip(kind="norm", limit=1.0)
U, LAST = Update(optimizer=0, settings=({"lr": 0.5},)), Update(optimizer=1, settings=({"lr": 0.5},))


def test_a_reproduction_is_exact_only_to_the_last_digit_and_where_there_is_one() -> None:
    assert Reproduction(seen=(1.0, 2.0), played=(1.0, 2.0)).exact
    near = Reproduction(seen=(1.0, 2.0), played=(1.0, math.nextafter(2.0, 3.0)))
    assert not near.exact
    assert near.worst == math.ulp(2.0)
    assert not Reproduction(seen=(), played=()).exact
    assert Reproduction(seen=(), played=()).worst == math.inf


def test_the_usual_order_drops_and_unscales_for_each_optimizer_and_clips_before_the_updates() -> None:
    window = Window(events=(B, C, U, LAST, Z))
    drops = (Z, ZeroGrad(optimizer=1))
    assert in_usual_order(window).events == (*drops, B, S, Unscale(optimizer=1), C, U, LAST)
    assert as_seen(window) is window


def test_a_mode_is_set_as_the_script_had_it_with_parts_that_it_keeps_in_the_other_one() -> None:
    theirs, own = network(), network()
    theirs.train()
    theirs[1].eval()
    set_mode(own, theirs, training=True)
    assert [module.training for module in own.modules()] == [True, True, False, True]
    set_mode(own, theirs, training=False)
    assert not any(module.training for module in own.modules())


def test_an_update_is_done_at_the_rate_that_was_seen_and_a_scale_is_taken_off_before() -> None:
    model = nn.Linear(3, 1, bias=False)
    optimizer = SGD(model.parameters(), 0.1)
    before = model.weight.detach().clone()
    model.weight.grad = torch.full((1, 3), 8.0)
    for event in (S, U):
        repeat(event, model, [optimizer], scale=4.0)
    assert torch.equal(model.weight, before - 0.5 * 2.0)
    repeat(Z, model, [optimizer], scale=4.0)
    assert model.weight.grad is None


def test_playing_changes_neither_the_script_s_model_nor_its_random_numbers() -> None:
    training = Training(nn.Sequential(network(), nn.Dropout(0.3)))
    recording = training.run(training.usual(SGD(training.model.parameters(), 0.1)))
    replica = replica_of(recording)
    factories = factories_of(recording, replica.model)
    held = [value.clone() for each in (replica.model, replica.start) for value in each.state_dict().values()]
    state = torch.get_rng_state()
    found = reproduced(replica, factories, as_seen)
    assert found.exact
    assert list(found.seen) == training.losses
    assert torch.equal(state, torch.get_rng_state())
    after = [value for each in (replica.model, replica.start) for value in each.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(held, after, strict=True))
    assert replica.model.training


def test_only_the_steps_whose_random_numbers_were_kept_are_played() -> None:
    training = Training()
    recording = training.run(training.usual(SGD(training.model.parameters(), 0.1)), 13)
    replica = replica_of(recording)
    assert len(replica.batches) == 13
    assert list(reproduced(replica, factories_of(recording, replica.model), as_seen).seen) == training.losses[:10]
