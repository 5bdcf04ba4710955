"""The stuck model: sound with every switch off, and each switch shows the symptom that it is named for."""

import math
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from experiments.config import DefectsConfig
from experiments.stuck import StuckModel, generation_logits, layer_norm, sinusoidal_positions

VOCAB, D_MODEL, HEADS, LAYERS, D_FF, CONTEXT, BATCH = 17, 22, 2, 2, 13, 7, 3
NO_LOSS_SHOWS = {"history_keeps_the_graph", "parameters_not_registered"}
EVERY_DEFECT = [each.name for each in fields(DefectsConfig)]


def model_with(*on: str, dropout: float = 0.0, seed: int = 0) -> StuckModel:
    torch.manual_seed(seed)
    return StuckModel(
        vocab_size=VOCAB,
        d_model=D_MODEL,
        num_heads=HEADS,
        num_layers=LAYERS,
        d_ff=D_FF,
        context=CONTEXT,
        dropout=dropout,
        defects=DefectsConfig(**dict.fromkeys(on, True)),
    )


def stream(time: int = CONTEXT + 1, seed: int = 1) -> Int[Tensor, "batch time"]:
    return torch.randint(0, VOCAB, (BATCH, time), generator=torch.Generator().manual_seed(seed))


def edited(tokens: Int[Tensor, "batch time"], position: int) -> Int[Tensor, "batch time"]:
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 1) % VOCAB
    return changed


def first_moved_output(model: StuckModel, position: int) -> int | None:
    """The earliest output that moves when one token of the stream is edited."""
    before, after = (model(tokens[:, :-1], tokens[:, 1:]) for tokens in (stream(), edited(stream(), position)))
    moved = (before - after).abs().amax(dim=(0, 2)) > 1e-6
    return int(moved.nonzero()[0]) if moved.any() else None


@pytest.mark.parametrize("position", range(CONTEXT))
def test_the_sound_model_moves_from_the_edited_token_on(position):
    assert first_moved_output(model_with(), position) == position


def test_the_sound_model_cannot_see_the_last_target():
    assert first_moved_output(model_with(), CONTEXT) is None


@pytest.mark.parametrize("harmless", ["no_output_projection", "untied_head", "per_position_affine"])
def test_a_harmless_deviation_leaks_nothing(harmless):
    assert first_moved_output(model_with(harmless), 5) == 5


def test_an_unshifted_decoder_sees_the_very_target():
    assert first_moved_output(model_with("targets_not_shifted"), 5) == 4


@pytest.mark.parametrize("leak", ["future_token_leak", "norm_over_the_wrong_axis"])
def test_a_leak_moves_the_first_output(leak):
    assert first_moved_output(model_with(leak), 5) == 0


def test_with_the_softmax_defect_rows_are_probabilities():
    broken, tokens = model_with("softmax_before_cross_entropy"), stream()
    rows = broken(tokens[:, :-1], tokens[:, 1:])
    sound = model_with()(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(rows, F.softmax(sound, dim=-1))


def test_every_switch_changes_the_output_or_what_the_model_holds():
    tokens = stream()
    sound = model_with()(tokens[:, :-1], tokens[:, 1:])
    silent = {name for name in EVERY_DEFECT if torch.equal(model_with(name)(tokens[:, :-1], tokens[:, 1:]), sound)}
    assert silent == {*NO_LOSS_SHOWS, "generation_differs_from_training", "per_position_affine"}


def test_unregistered_positions_are_not_saved_and_not_moved():
    sound, broken = model_with(), model_with("parameters_not_registered")
    assert sound.state_dict().keys() - broken.state_dict().keys() == {"embedding.positions"}
    assert sound.double().embedding.positions.dtype == torch.float64
    assert broken.double().embedding.positions.dtype == torch.float32


def test_positions_are_sines_and_cosines_by_hand():
    """d_model 4: wavelengths 1 and 100, so row 2 is sin 2, cos 2, sin 0.02, cos 0.02."""
    expected = torch.tensor([math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)])
    torch.testing.assert_close(sinusoidal_positions(3, 4)[2], expected)


def embedding_jacobian(model: StuckModel) -> float:
    """d(output) / d(scaled token vector) of the embedding, the same for every entry."""
    before = model.embedding(stream(CONTEXT))
    with torch.no_grad():
        model.embedding.tokens.weight += 1 / model.embedding.scale
    return (model.embedding(stream(CONTEXT)) - before).mean().item()


def test_positions_added_twice_double_the_tokens_but_not_the_positions():
    assert embedding_jacobian(model_with()) == pytest.approx(1, abs=1e-4)
    assert embedding_jacobian(model_with("positions_added_twice")) == pytest.approx(2, abs=1e-4)


def test_the_embedding_has_unit_size_or_sqrt_d_model():
    sizes = {
        on: (torch.Tensor(model_with(*on).embedding.tokens.weight) * math.sqrt(D_MODEL)).std().item()
        for on in ((), ("embedding_scale",))
    }
    assert sizes[()] == pytest.approx(1, rel=0.1)
    assert sizes[("embedding_scale",)] == pytest.approx(math.sqrt(D_MODEL), rel=0.1)


def head_input_growth(model: StuckModel) -> float:
    """How much larger the head's input gets when the embedding gets four times as large."""
    seen: list[Float[Tensor, "..."]] = []
    model.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].square().mean().sqrt()))
    tokens = stream()
    for factor in (1, 4):
        with torch.no_grad():
            model.embedding.tokens.weight.mul_(factor)
        model(tokens[:, :-1], tokens[:, 1:])
    return (seen[1] / seen[0]).item()


def test_only_without_a_final_norm_the_head_feels_the_size_of_the_embedding():
    assert head_input_growth(model_with()) == pytest.approx(1, abs=0.05)
    assert head_input_growth(model_with("no_final_norm", "embedding_scale")) > 3


def norm_with(*on: str) -> nn.Module:
    defects = DefectsConfig(**dict.fromkeys(on, True))
    return layer_norm(d_model=D_MODEL, context=CONTEXT, defects=defects)


@pytest.mark.parametrize("on", [(), ("per_position_affine",)])
def test_a_feature_norm_gives_each_position_mean_zero_and_variance_one(on):
    normal = norm_with(*on)(torch.randn(BATCH, 5, D_MODEL))
    torch.testing.assert_close(normal.mean(2), torch.zeros(BATCH, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var(2, correction=0), torch.ones(BATCH, 5), atol=1e-3, rtol=0)


def test_a_time_norm_gives_each_feature_mean_zero_and_turns_one_position_into_the_bias():
    norm = norm_with("norm_over_the_wrong_axis", "per_position_affine")
    normal = norm(torch.randn(BATCH, 5, D_MODEL))
    torch.testing.assert_close(normal.mean(1), torch.zeros(BATCH, D_MODEL), atol=1e-5, rtol=0)
    with torch.no_grad():
        norm.bias.copy_(torch.randn(CONTEXT, D_MODEL))
    torch.testing.assert_close(norm(torch.randn(1, 1, D_MODEL))[0], norm.bias[:1])


def test_attention_equals_torchs_own():
    attention = model_with().encoder[0].self_attention.double()
    other = nn.MultiheadAttention(D_MODEL, HEADS, batch_first=True).double()
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat((attention.query.weight, attention.key_value.weight)))
        other.in_proj_bias.copy_(torch.cat((attention.query.bias, attention.key_value.bias)))
        other.out_proj.load_state_dict(attention.output.state_dict())
    x = torch.randn(BATCH, 5, D_MODEL, dtype=torch.float64)
    may_see = torch.ones(5, 5).tril().bool()
    expected, _ = other(x, x, x, attn_mask=~may_see)
    torch.testing.assert_close(attention(x, x, may_see), expected)


def test_the_head_is_the_embedding_only_when_tied():
    tied, untied = model_with(), model_with("untied_head")
    assert tied.head.weight is tied.embedding.tokens.weight
    assert untied.head.weight is not untied.embedding.tokens.weight


@pytest.mark.parametrize("time", [1, 5, CONTEXT])
def test_sound_generation_gives_the_logits_of_training(time):
    model, tokens = model_with(), stream(time + 1)
    training = model(tokens[:, :-1], tokens[:, 1:])[:, -1]
    torch.testing.assert_close(generation_logits(model, tokens[:, :-1]), training)


@pytest.mark.parametrize("time", [1, 5, CONTEXT])
def test_the_stuck_run_samples_as_good_as_uniformly(time):
    scores = generation_logits(model_with(*EVERY_DEFECT), stream(time))
    sampled = F.softmax(scores, dim=-1)
    assert sampled.amax() <= math.e / (math.e + VOCAB - 1) + 1e-6


def test_a_window_is_cut_to_its_last_tokens():
    model, tokens = model_with(), stream(CONTEXT + 4)
    torch.testing.assert_close(generation_logits(model, tokens), generation_logits(model, tokens[:, 4:]))


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_mode_alone_and_drops_nothing_out(training):
    model = model_with(dropout=0.5).train(training)
    first, second = (generation_logits(model, stream()) for _ in range(2))
    assert torch.equal(first, second)
    assert model.training is training


def test_broken_generation_drops_out_and_feeds_the_decoder_otherwise():
    noisy = model_with("generation_differs_from_training", dropout=0.5).eval()
    first, second = (generation_logits(noisy, stream()) for _ in range(2))
    assert not torch.equal(first, second)
    steady = model_with("generation_differs_from_training")
    sound = replace(steady.defects, generation_differs_from_training=False)
    broken = generation_logits(steady, stream())
    steady.defects = sound
    assert not torch.allclose(generation_logits(steady, stream()), broken)


def test_one_batch_is_learned_by_the_sound_model_only():
    tokens = stream()
    x, y = tokens[:, :-1], tokens[:, 1:]
    losses = {}
    for on in ((), ("softmax_before_cross_entropy",)):
        model = model_with(*on)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(100):
            loss = F.cross_entropy(model(x, y).flatten(0, 1), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[on] = loss.item()
    assert losses[()] < 0.1
    assert losses[("softmax_before_cross_entropy",)] >= math.log(VOCAB - 1 + math.e) - 1


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"d_model \(22\) must be a multiple of num_heads \(3\)"):
        StuckModel(
            vocab_size=VOCAB,
            d_model=22,
            num_heads=3,
            num_layers=1,
            d_ff=5,
            context=5,
            dropout=0.0,
            defects=DefectsConfig(),
        )


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"d_model \(7\) must be even"):
        StuckModel(
            vocab_size=VOCAB,
            d_model=7,
            num_heads=7,
            num_layers=1,
            d_ff=5,
            context=5,
            dropout=0.0,
            defects=DefectsConfig(),
        )


def test_a_window_longer_than_the_context_is_refused():
    tokens = stream(CONTEXT + 2)
    with pytest.raises(ValueError, match=r"time \(8\) must be at most context \(7\); cut the window"):
        model_with()(tokens[:, :-1], tokens[:, 1:])
