"""The language model: equal to GPT-2, sees no future, reads positions, keeps samples apart."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from transformer import LanguageModel, ModelConfig

VOCAB, D_MODEL, HEADS, LAYERS, MAX_LEN = 11, 15, 3, 2, 13
BATCH, TIME = 2, 7
VARIANTS = list(product(["after", "before"], ["sinusoidal", "learned"]))
PER_VARIANT = pytest.mark.parametrize(("norm", "positions"), VARIANTS)

GPT2_NAMES = {
    "transformer.wte.weight": "embedding.tokens.weight",
    "transformer.wpe.weight": "embedding.positions",
    "transformer.h.": "stack.layers.",
    "transformer.ln_f.": "stack.final_norm.",
    "ln_1.": "around_attention.norm.",
    "ln_2.": "around_feedforward.norm.",
    "attn.c_attn.": "attention.query_key_value.",
    "attn.c_proj.": "attention.output.",
    "mlp.c_fc.": "feedforward.inner.",
    "mlp.c_proj.": "feedforward.outer.",
}


def new_model(**settings: object) -> LanguageModel:
    sizes = {"vocab_size": VOCAB, "d_model": D_MODEL, "num_heads": HEADS, "num_layers": LAYERS, "d_ff": 17}
    return LanguageModel(ModelConfig(**{**sizes, "max_len": MAX_LEN, "dropout": 0.0, **settings}))  # type: ignore[arg-type]


def random_tokens() -> Tensor:
    return torch.randint(VOCAB, (BATCH, TIME))


def in_our_names(gpt2: dict[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's parameters (or gradients) by our names; its matrices are stored as input x output."""
    ours = {}
    for name, tensor in gpt2.items():
        is_transposed = name.endswith("weight") and ".c_" in name
        for their_part, our_part in GPT2_NAMES.items():
            name = name.replace(their_part, our_part)
        ours[name] = tensor.T if is_transposed else tensor
    return ours


def test_it_equals_a_hugging_face_gpt2_forward_and_backward() -> None:
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB,
            n_positions=MAX_LEN,
            n_embd=D_MODEL,
            n_layer=LAYERS,
            n_head=HEADS,
            n_inner=17,
            activation_function="gelu_new",
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    for parameter in gpt2.parameters():
        nn.init.normal_(parameter, std=0.5)
    model = new_model(norm="before", positions="learned", activation="gelu-tanh", scale_embedding=False)
    weights = in_our_names(dict(gpt2.named_parameters()))
    model.load_state_dict(weights | {"head.weight": weights["embedding.tokens.weight"]})
    tokens = random_tokens()
    expected, actual = gpt2(tokens).logits, model(tokens)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-10)
    for logits in (expected, actual):
        F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    expected_gradients = in_our_names({name: p.grad for name, p in gpt2.named_parameters()})
    actual_gradients = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(actual_gradients, expected_gradients, rtol=0, atol=1e-10)


@PER_VARIANT
def test_editing_later_tokens_leaves_earlier_logits(norm: str, positions: str) -> None:
    model, tokens = new_model(norm=norm, positions=positions), random_tokens()
    for t in range(TIME):
        edited = tokens.clone()
        edited[:, t] = (tokens[:, t] + 1) % VOCAB
        moved = (model(edited) - model(tokens)).abs().amax(dim=(0, 2))
        assert (moved[:t] < 1e-12).all()
        assert (moved[t:] > 1e-6).all()


@PER_VARIANT
def test_samples_of_a_batch_do_not_meet(norm: str, positions: str) -> None:
    model, tokens = new_model(norm=norm, positions=positions), random_tokens()
    together = model(tokens)
    alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


@PER_VARIANT
def test_the_order_of_the_context_matters(norm: str, positions: str) -> None:
    model = new_model(norm=norm, positions=positions)
    forwards, backwards = torch.tensor([[2, 3, 5, 7]]), torch.tensor([[5, 3, 2, 7]])
    assert (model(forwards) - model(backwards))[:, -1].abs().max() > 1e-3


def test_nothing_but_the_positions_tells_the_order() -> None:
    """One layer, positions zeroed: the last token gathers from a set."""
    model = new_model(num_layers=1)
    model.embedding.positions.zero_()
    forwards, backwards = torch.tensor([[2, 3, 5, 7]]), torch.tensor([[5, 3, 2, 7]])
    torch.testing.assert_close(model(forwards)[:, -1], model(backwards)[:, -1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_tying_shares_one_matrix_and_saves_its_parameters(tied: bool) -> None:
    model = new_model(tie_weights=tied)
    assert (model.head.weight is model.embedding.tokens.weight) == tied
    matrices = 1 if tied else 2
    attention, feedforward, norms = 4 * 15 * 15 + 4 * 15, 2 * 15 * 17 + 17 + 15, 2 * 2 * 15
    expected = matrices * 11 * 15 + LAYERS * (attention + feedforward + norms)
    assert expected == sum(p.numel() for p in model.parameters())


def test_a_tied_matrix_gets_the_gradients_of_both_its_uses() -> None:
    tokens = random_tokens()
    untied, tied = new_model(tie_weights=False), new_model(tie_weights=True)
    untied.head.weight.data.copy_(untied.embedding.tokens.weight)
    tied.load_state_dict(untied.state_dict())
    for model in (untied, tied):
        model(tokens).logsumexp(dim=-1).sum().backward()
    of_both = untied.head.weight.grad + untied.embedding.tokens.weight.grad
    torch.testing.assert_close(tied.head.weight.grad, of_both, rtol=0, atol=1e-12)


def test_tied_weights_survive_saving_and_loading() -> None:
    model, fresh = new_model(), new_model()
    fresh.load_state_dict(model.state_dict())
    assert fresh.head.weight is fresh.embedding.tokens.weight
    tokens = random_tokens()
    assert torch.equal(model(tokens), fresh(tokens))


@PER_VARIANT
def test_reading_in_pieces_with_a_cache_equals_reading_at_once(norm: str, positions: str) -> None:
    model, tokens = new_model(norm=norm, positions=positions), random_tokens()
    cache = model.new_cache()
    pieces = [model(piece, cache) for piece in tokens.split([3, 1, 2, 1], dim=1)]
    assert len(cache) == TIME
    torch.testing.assert_close(model(tokens), torch.cat(pieces, dim=1), rtol=0, atol=1e-12)


def test_a_cache_counts_towards_max_len() -> None:
    model, cache = new_model(max_len=7), new_model().new_cache()
    model(random_tokens(), cache)
    with pytest.raises(ValueError, match=r"a sequence of 8 tokens is longer than max_len \(7\)"):
        model(torch.tensor([[1], [1]]), cache)


def test_the_head_turns_states_into_logits() -> None:
    model, tokens = new_model(), random_tokens()
    assert torch.equal(model(tokens), model.head(model.states(tokens)))


def test_every_parameter_receives_a_gradient() -> None:
    model = new_model(positions="learned", max_len=TIME)
    F.cross_entropy(model(torch.arange(7)[None]).flatten(0, 1), torch.arange(1, 8)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == []


def test_dropout_acts_while_training_only() -> None:
    model, tokens = new_model(dropout=0.5), random_tokens()
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
