"""Generation: choices by hand, the cache against none, beam search against every possible text."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from transformer import (
    Hypothesis,
    LanguageModel,
    ModelConfig,
    Sampling,
    Seq2Seq,
    beam_search,
    generate,
    keep_top_k,
    keep_top_p,
    length_divisor,
)
from transformer.generation import _Beams

VOCAB, EOS, MAX_LEN = 5, 3, 7
SOURCE = torch.tensor([[2, 0, 4, 1, 3, 2, 2], [4, 4, 1, 0, 2, 3, 0]])
SOURCE_IS_PADDING = torch.tensor([[False] * 7, [False] * 5 + [True] * 2])
PROMPT = torch.tensor([[2, 3], [4, 1]])
READS = {"source": SOURCE, "source_is_padding": SOURCE_IS_PADDING}
VARIANTS = list(product([LanguageModel, Seq2Seq], ["after", "before"], ["sinusoidal", "learned"]))
PER_VARIANT = pytest.mark.parametrize(("kind", "norm", "positions"), VARIANTS)
PER_KIND = pytest.mark.parametrize("kind", [LanguageModel, Seq2Seq])


def new_model(kind: type[nn.Module], **settings: object) -> nn.Module:
    """A model with opinions: large weights, so that the choices of the tests are not near-ties."""
    sizes = {"vocab_size": VOCAB, "d_model": 15, "num_heads": 3, "num_layers": 2, "max_len": MAX_LEN}
    model = kind(ModelConfig(**{**sizes, **settings}))  # type: ignore[arg-type]
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    return model


def reads(model: nn.Module) -> dict[str, Tensor]:
    return READS if isinstance(model, Seq2Seq) else {}


def logits_after(model: nn.Module, row: int, tokens: list[int]) -> Tensor:
    """What follows the tokens, by the plainest way there is: read everything again."""
    window = torch.tensor([tokens[-model.config.max_len :]])
    with torch.no_grad():
        if isinstance(model, Seq2Seq):
            return model(SOURCE[row : row + 1], window, SOURCE_IS_PADDING[row : row + 1])[0, -1]
        return model(window)[0, -1]


# --- one token


def test_top_k_by_hand() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, 2.0], [7.0, 0.0, 7.0, 7.5]])
    kept = keep_top_k(logits, 2)
    assert kept[0].tolist() == [-math.inf, 5.0, 3.0, -math.inf]
    assert kept.isfinite().sum(dim=1).tolist() == [2, 2]  # a tie does not let a third one in
    assert torch.equal(logits, keep_top_k(logits, 9))


@pytest.mark.parametrize(
    ("p", "kept"),
    [(0.1, [1]), (0.499, [1]), (0.501, [1, 3]), (0.749, [1, 3]), (0.751, [0, 1, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_by_hand(p: float, kept: list[int]) -> None:
    """Probabilities 0.15, 0.5, 0.1, 0.25: the likeliest, until they reach p together."""
    logits = torch.tensor([[0.15, 0.5, 0.1, 0.25]]).log()
    assert kept == keep_top_p(logits, p)[0].isfinite().nonzero().flatten().tolist()


def test_top_p_leaves_what_it_keeps_as_it_was() -> None:
    logits = torch.randn(3, 7)
    kept = keep_top_p(logits, 0.7)
    assert torch.equal(kept, torch.where(kept.isfinite(), logits, -math.inf))
    assert torch.equal(logits, keep_top_p(logits, 1.0))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.125, 0.5, 0.125, 0.25]),
        ({"temperature": 0.5}, [1 / 22, 16 / 22, 1 / 22, 4 / 22]),
        ({"top_k": 2}, [0.0, 2 / 3, 0.0, 1 / 3]),
        ({"top_p": 0.6}, [0.0, 2 / 3, 0.0, 1 / 3]),
        ({"top_k": 2, "temperature": 0.5}, [0.0, 4 / 5, 0.0, 1 / 5]),
        ({"top_k": 2, "top_p": 0.6}, [0.0, 1.0, 0.0, 0.0]),
        ({"greedy": True}, [0.0, 1.0, 0.0, 0.0]),
    ],
)
def test_tokens_are_drawn_with_the_probabilities_of_the_settings(
    settings: dict[str, float], expected: list[float]
) -> None:
    """Within five standard deviations of a binomial. Top-p sees what top-k has left: 2/3 reaches 0.6."""
    draws = 20_011
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25]).log().expand(draws, -1)
    counts = Counter(Sampling(**settings).choose(logits).tolist())  # type: ignore[arg-type]
    for token, probability in enumerate(expected):
        assert abs(counts[token] / draws - probability) <= 5 * math.sqrt(probability * (1 - probability) / draws)


# --- texts


@PER_VARIANT
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_takes_the_likeliest_token_beyond_max_len_too(
    kind: type[nn.Module], norm: str, positions: str, use_cache: bool
) -> None:
    """13 new tokens through a window of 7, against reading everything again for every token."""
    model = new_model(kind, norm=norm, positions=positions).eval()
    expected = PROMPT.tolist()
    for row, tokens in enumerate(expected):
        for _ in range(13):
            tokens.append(int(logits_after(model, row, tokens).argmax()))
    actual = generate(model, PROMPT, max_new_tokens=13, greedy=True, use_cache=use_cache, **reads(model))
    assert expected == actual.tolist()


@PER_VARIANT
def test_sampling_with_a_cache_equals_sampling_without_token_for_token(
    kind: type[nn.Module], norm: str, positions: str
) -> None:
    model = new_model(kind, norm=norm, positions=positions)
    settings = {"max_new_tokens": 23, "temperature": 3.0, "top_k": 4, "top_p": 0.97, **reads(model)}
    with_cache, without = (
        generate(model, PROMPT, generator=torch.Generator().manual_seed(7), use_cache=use_cache, **settings)
        for use_cache in (True, False)
    )
    assert with_cache.tolist() == without.tolist()
    assert len(set(with_cache.flatten().tolist())) > 2  # not one token for ever


def test_the_cache_reads_every_token_once_until_the_window_slides() -> None:
    model, read = new_model(LanguageModel), []
    model.embedding.register_forward_pre_hook(lambda _, arguments: read.append(arguments[0].shape[1]))
    generate(model, PROMPT, max_new_tokens=8)
    assert read == [2, 1, 1, 1, 1, 1, 7, 7]


@PER_KIND
def test_a_text_ends_with_eos_and_writing_when_all_have_ended(kind: type[nn.Module]) -> None:
    model = new_model(kind)
    settings = {"max_new_tokens": 40, "temperature": 5.0, **reads(model)}
    free, ended = (
        generate(model, PROMPT, eos=eos, generator=torch.Generator().manual_seed(1), **settings)[:, 2:]
        for eos in (None, EOS)
    )
    ends = [row.index(EOS) + 1 for row in free.tolist()]
    assert ends[0] != ends[1]
    assert ended.shape[1] == max(ends)
    for row, end in enumerate(ends):
        assert torch.equal(free[row, :end], ended[row, :end])
        assert (ended[row, end:] == EOS).all()


def test_an_eos_in_the_prompt_ends_nothing() -> None:
    assert EOS in PROMPT
    model = new_model(LanguageModel)
    model.head.weight.data[EOS] = 0.0
    assert generate(model, PROMPT, max_new_tokens=7, eos=EOS).shape == (2, 9)


@PER_KIND
def test_a_generator_decides_and_the_global_one_stays_untouched(kind: type[nn.Module]) -> None:
    model, before = new_model(kind), torch.get_rng_state
    state = before()
    texts = [
        generate(
            model,
            PROMPT,
            max_new_tokens=23,
            temperature=4.0,
            generator=torch.Generator().manual_seed(seed),
            **reads(model),
        ).tolist()
        for seed in (3, 3, 5)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(state, before())


@PER_KIND
def test_dropout_is_off_and_every_module_gets_its_mode_back(kind: type[nn.Module]) -> None:
    model = new_model(kind, dropout=0.9).train()
    model.head.eval()
    modes = [module.training for module in model.modules()]
    write = [generate(model, PROMPT, max_new_tokens=19, greedy=True, **reads(model)) for _ in range(2)]
    search = [beam_search(model, PROMPT, max_new_tokens=5, **reads(model)) for _ in range(2)]
    assert torch.equal(*write)
    assert search[0] == search[1]
    assert modes == [module.training for module in model.modules()]


def test_the_mode_comes_back_after_an_error_too() -> None:
    model = new_model(LanguageModel).train()
    with pytest.raises(ValueError, match="must be at least 0 and below vocab_size"):
        generate(model, torch.tensor([[VOCAB]]), max_new_tokens=1)
    assert model.training


@PER_KIND
def test_generation_keeps_no_graph(kind: type[nn.Module]) -> None:
    model = new_model(kind)
    assert not generate(model, PROMPT, max_new_tokens=3, **reads(model)).requires_grad
    assert torch.is_grad_enabled()


# --- beam search


def test_the_length_divisor_by_hand() -> None:
    """Wu et al., equation 14: (5 + |Y|)^alpha / (5 + 1)^alpha."""
    assert length_divisor(1, 0.6) == 1.0
    assert length_divisor(7, 1.0) == 2.0
    assert length_divisor(19, 0.5) == 2.0
    assert length_divisor(13, 0.0) == 1.0
    assert math.isclose(18**0.6 / 6**0.6, length_divisor(13, 0.6))


def hypothesis(tokens: tuple[int, ...], log_probability: float, alpha: float) -> Hypothesis:
    score = log_probability / ((5 + len(tokens)) / 6) ** alpha
    return Hypothesis(tokens=tokens, log_probability=log_probability, score=score)


def every_text(model: nn.Module, row: int, length: int, alpha: float) -> list[Hypothesis]:
    """All texts that end with eos, or are as long as allowed, each read from the beginning."""
    found, unfinished = [], [((), 0.0)]
    while unfinished:
        written, total = unfinished.pop()
        log_probabilities = logits_after(model, row, PROMPT[row].tolist() + list(written)).log_softmax(0)
        for token in range(VOCAB):
            text, sum_ = (*written, token), total + log_probabilities[token].item()
            if token == EOS or len(text) == length:
                found.append(hypothesis(text, sum_, alpha))
            else:
                unfinished.append((text, sum_))
    return sorted(found, key=lambda h: -h.score)


def plain_beam_search(model: nn.Module, row: int, size: int, length: int, alpha: float) -> list[Hypothesis]:
    """Beam search in a few lines: no cache, no batch, never stops early."""
    found: list[Hypothesis] = []
    beam: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for step in range(1, length + 1):
        candidates = []
        for written, total in beam:
            log_probabilities = logits_after(model, row, PROMPT[row].tolist() + list(written)).log_softmax(0)
            candidates += [((*written, t), total + log_probabilities[t].item()) for t in range(VOCAB)]
        candidates.sort(key=lambda c: -c[1])
        ends = [(text, sum_) for text, sum_ in candidates[:size] if text[-1] == EOS or step == length]
        found += [hypothesis(text, sum_, alpha) for text, sum_ in ends]
        beam = [(text, sum_) for text, sum_ in candidates if text[-1] != EOS][:size]
    return sorted(found, key=lambda h: -h.score)[:size]


def assert_same(expected: list[Hypothesis], actual: list[Hypothesis]) -> None:
    assert [h.tokens for h in expected] == [h.tokens for h in actual]
    for ours, theirs in zip(actual, expected, strict=True):
        assert math.isclose(theirs.log_probability, ours.log_probability, rel_tol=1e-10)
        assert math.isclose(theirs.score, ours.score, rel_tol=1e-10)


@PER_KIND
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_beam_as_wide_as_all_texts_finds_every_text_in_order(kind: type[nn.Module], alpha: float) -> None:
    model, length = new_model(kind).eval(), 3
    found = beam_search(
        model,
        PROMPT,
        max_new_tokens=length,
        beam_size=VOCAB**3,
        length_penalty=alpha,
        eos=EOS,
        **reads(model),
    )
    for row in range(2):
        assert_same(every_text(model, row, length, alpha), found[row])
        total = sum(math.exp(h.log_probability) for h in found[row])
        assert math.isclose(1.0, total, rel_tol=1e-12)


@PER_KIND
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(("size", "alpha"), [(1, 0.6), (2, 0.0), (3, 0.6), (3, 3.0)])
def test_a_narrow_beam_equals_one_that_never_stops_early(
    kind: type[nn.Module], use_cache: bool, size: int, alpha: float
) -> None:
    """7 tokens after 2: beyond the window as well."""
    model = new_model(kind, norm="before").eval()
    settings = {"max_new_tokens": 7, "beam_size": size, "length_penalty": alpha, "eos": EOS}
    found = beam_search(model, PROMPT, use_cache=use_cache, **settings, **reads(model))
    for row in range(2):
        assert_same(plain_beam_search(model, row, size, 7, alpha), found[row])


@PER_KIND
def test_one_beam_without_a_penalty_is_greedy(kind: type[nn.Module]) -> None:
    model = new_model(kind)
    written = generate(model, PROMPT, max_new_tokens=7, greedy=True, **reads(model))[:, 2:]
    found = beam_search(model, PROMPT, max_new_tokens=7, beam_size=1, length_penalty=0.0, **reads(model))
    assert written.tolist() == [list(row[0].tokens) for row in found]


def test_the_search_stops_when_nothing_can_overtake() -> None:
    """With no end in sight but eos: a model that is sure of eos needs one step per beam, not fifty."""
    model, steps = new_model(LanguageModel, max_len=53), []
    model.head.weight.data.zero_()
    model.stack.register_forward_hook(lambda *_: steps.append(1))
    model.head = nn.Linear(15, VOCAB)
    model.head.weight.data.zero_()
    model.head.bias.data = torch.tensor([0.0, 0.0, 0.0, 30.0, 0.0])
    found = beam_search(model, PROMPT, max_new_tokens=50, beam_size=2, eos=EOS)
    assert found[0][0].tokens == (EOS,)
    assert len(steps) < 5


def beams_after_one_step(first: list[list[float]], *, max_length: int, alpha: float) -> _Beams:
    """One beam per prompt of one token, extended once by these probabilities."""
    beams = _Beams(torch.zeros(len(first), 1, dtype=torch.int64), 1, max_length, alpha, EOS)
    beams.extend(torch.tensor(first).log())
    return beams


def test_the_search_goes_on_until_every_prompt_is_decided() -> None:
    """The first prompt ends at once, the second one step later."""
    ends, goes_on = [0.1, 0.0, 0.0, 0.9], [0.9, 0.0, 0.0, 0.1]
    beams = beams_after_one_step([ends, goes_on], max_length=7, alpha=0.0)
    assert not beams.are_decided()
    beams.extend(torch.tensor([ends, ends]).log())
    assert beams.are_decided()
    assert [row[0].tokens for row in beams.complete] == [(EOS,), (0, EOS)]


def test_an_unfinished_text_may_overtake_by_its_length() -> None:
    """alpha = 1: the end scores ln 0.6 = -0.511; seven tokens of ln 0.4 = -0.916 would score -0.458."""
    first = [[0.4, 0.0, 0.0, 0.6]]
    assert not beams_after_one_step(first, max_length=7, alpha=1.0).are_decided()
    assert beams_after_one_step(first, max_length=4, alpha=1.0).are_decided()
    assert beams_after_one_step(first, max_length=7, alpha=0.0).are_decided()


# --- messages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, r"temperature \(0.0\) must be above 0 and finite; .* pass greedy=True"),
        ({"top_k": 0}, r"top_k \(0\) must be at least 1"),
        ({"top_p": 0.0}, r"top_p \(0.0\) must be above 0 and at most 1; None draws from all tokens"),
        ({"top_p": 1.5}, r"top_p \(1.5\) must be above 0 and at most 1"),
        (
            {"greedy": True, "top_k": 3},
            r"greedy \(True\) leaves nothing to draw; leave out temperature, top_k",
        ),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be at least 1"),
        ({"eos": VOCAB}, r"eos \(5\) must be at least 0 and below vocab_size \(5\); do tokenizer and model"),
        ({"source": SOURCE}, "a LanguageModel reads no source; put the text into prompt, or use a Seq2Seq"),
    ],
)
def test_a_setting_that_cannot_be_followed_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(new_model(LanguageModel), PROMPT, **{"max_new_tokens": 2, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_size": 0}, r"beam_size \(0\) must be at least 1"),
        ({"max_new_tokens": 0}, r"max_new_tokens \(0\) must be at least 1"),
        ({"eos": VOCAB}, r"eos \(5\) must be at least 0 and below vocab_size \(5\); do tokenizer and model"),
        ({"length_penalty": -0.1}, r"length_penalty \(-0.1\) must be at least 0 and finite; 0 turns it off"),
        ({"source": SOURCE}, "a LanguageModel reads no source"),
    ],
)
def test_a_beam_search_that_cannot_be_done_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_search(new_model(LanguageModel), PROMPT, **{"max_new_tokens": 2, **settings})  # type: ignore[arg-type]


def test_a_seq2seq_without_its_source_is_refused() -> None:
    with pytest.raises(ValueError, match="a Seq2Seq needs a source to read; pass source="):
        generate(new_model(Seq2Seq), PROMPT, max_new_tokens=2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.usefixtures("unchecked")
def test_a_model_of_another_kind_is_refused() -> None:
    message = r"model \(Linear\) must be a LanguageModel or a Seq2Seq; if compiled, pass the original"
    with pytest.raises(TypeError, match=message):
        generate(nn.Linear(2, 3), PROMPT, max_new_tokens=2)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_a_source_of_other_rows_than_the_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"source \(rows: 1\) must have as many rows as prompt \(2\)"):
        generate(new_model(Seq2Seq), PROMPT, max_new_tokens=2, source=SOURCE[:1])


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match=r"prompt \(of shape \(2, 0\)\) is empty; begin with at least one token"):
        generate(new_model(LanguageModel), PROMPT[:, :0], max_new_tokens=2)
