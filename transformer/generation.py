"""Writing text with a trained model: greedy, sampled, or by beam search.

Everything here works for a `LanguageModel` and, given `source`, for a `Seq2Seq`. The model is put into eval
mode and gets back the mode it had. A text that outgrows `max_len` is read through a window on its last
`max_len` tokens; each slide moves every position, so the window is then read anew for every token.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from transformer.attention import Cache
from transformer.language_model import LanguageModel
from transformer.seq2seq import Seq2Seq

_States = Callable[[Tensor, Cache | None], Tensor]


@torch.no_grad()
def generate(
    model: LanguageModel | Seq2Seq,
    prompt: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    greedy: bool = False,
    eos: int | None = None,
    source: Int[Tensor, "batch source_len"] | None = None,
    source_is_padding: Bool[Tensor, "batch source_len"] | None = None,
    generator: torch.Generator | None = None,
    use_cache: bool = True,
) -> Int[Tensor, "batch longer_time"]:
    """The prompt and what the model writes after it.

    Args:
        model: a `LanguageModel`, or a `Seq2Seq` together with `source`.
        prompt: how the text begins, at least one token; for a `Seq2Seq` its start token.
        max_new_tokens: at most so many tokens are added.
        temperature: logits are divided by it; below 1 favours the likely tokens.
        top_k: draw from the k most likely tokens only; None draws from all.
        top_p: draw from the fewest tokens whose probabilities reach p, in (0, 1]; None draws from all.
            Applied after `temperature` and `top_k`.
        greedy: take the most likely token instead of drawing one.
        eos: token that ends a text; the rest of its row is filled with it. Writing stops when every row has
            ended. None: only `max_new_tokens` ends it.
        source: what a `Seq2Seq` reads, one row per prompt.
        source_is_padding: true where the source is padding; None means nowhere.
        generator: where chance comes from; None is torch's global generator.
        use_cache: remember keys and values instead of reading the whole text for every token; the tokens are
            the same.

    Raises:
        ValueError: if a setting is out of range or would have no effect, or prompt and source do not fit.

    Source: top-p is "nucleus sampling", Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, greedy=greedy)
    _require_positive("max_new_tokens", max_new_tokens)
    with _in_eval_mode(model):
        reader = _Reader(model, prompt, source, source_is_padding, use_cache=use_cache)
        _require_token("eos", eos, model.config.vocab_size)
        tokens, has_ended = prompt, torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
        for _ in range(max_new_tokens):
            new = sampling.choose(reader.next_logits(tokens), generator).to(prompt.dtype)
            if eos is not None:
                new = new.masked_fill(has_ended, eos)
                has_ended |= new == eos
            tokens = torch.cat([tokens, new[:, None]], dim=1)
            if eos is not None and has_ended.all():
                break
    return tokens


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How one token is chosen from logits; see `generate` for the fields."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    greedy: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature ({self.temperature}) must be above 0 and finite; "
                "for the most likely token pass greedy=True"
            )
        if self.top_k is not None:
            _require_positive("top_k", self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p ({self.top_p}) must be above 0 and at most 1; None draws from all tokens")
        if self.greedy and (self.temperature, self.top_k, self.top_p) != (1.0, None, None):
            raise ValueError("greedy (True) leaves nothing to draw; leave out temperature, top_k and top_p")

    def choose(
        self, logits: Float[Tensor, "batch vocab"], generator: torch.Generator | None = None
    ) -> Int[Tensor, " batch"]:
        """One token per row."""
        if self.greedy:
            return logits.argmax(dim=-1)
        logits = logits / self.temperature
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None:
            logits = keep_top_p(logits, self.top_p)
        return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """The k largest logits of each row, minus infinity elsewhere; all of them if there are no more than k.

    >>> keep_top_k(torch.tensor([[1.0, 3.0, 2.0]]), 2).tolist()
    [[-inf, 3.0, 2.0]]
    """
    largest = logits.topk(min(k, logits.shape[-1]))
    return torch.full_like(logits, -math.inf).scatter(-1, largest.indices, largest.values)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """The fewest logits of each row whose probabilities reach p, minus infinity elsewhere.

    The most likely token always stays.

    Source: Holtzman et al. 2020, section 3.1.
    """
    ordered = logits.sort(dim=-1, descending=True)
    probability = ordered.values.softmax(dim=-1)
    mass_before = F.pad(probability.cumsum(dim=-1)[:, :-1], (1, 0))
    kept = ordered.values.masked_fill(mass_before >= p, -math.inf)
    return torch.empty_like(logits).scatter(-1, ordered.indices, kept)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One text that beam search found.

    Args:
        tokens: what was written after the prompt, `eos` included if it was reached.
        log_probability: of these tokens after the prompt, in nats.
        score: log_probability / length_divisor(len(tokens)); higher is better.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


def length_divisor(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha: what log-probabilities are divided by, so that long texts stand a chance.

    Args:
        length: tokens written, `eos` included.
        alpha: 0 compares log-probabilities as they are; the paper uses 0.6.

    Source: Wu et al. 2016, "Google's Neural Machine Translation System", equation 14, without its coverage
    term; used so in Vaswani et al. 2017, section 6.1.

    >>> length_divisor(7, 1.0)
    2.0
    """
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(
    model: LanguageModel | Seq2Seq,
    prompt: Int[Tensor, "batch time"],
    *,
    max_new_tokens: int,
    beam_size: int = 4,
    length_penalty: float = 0.6,
    eos: int | None = None,
    source: Int[Tensor, "batch source_len"] | None = None,
    source_is_padding: Bool[Tensor, "batch source_len"] | None = None,
    use_cache: bool = True,
) -> list[list[Hypothesis]]:
    """The best texts found after each prompt, best first.

    Every step extends the `beam_size` most likely unfinished texts by every token and keeps the most likely.
    A text is complete when it ends with `eos` or has `max_new_tokens` tokens. The search of a prompt is over
    when no unfinished text can still overtake its `beam_size` best complete ones.

    Args:
        model, prompt, source, source_is_padding, use_cache: as in `generate`.
        max_new_tokens: at most so many tokens are added.
        beam_size: unfinished texts kept per prompt, and complete ones returned at most; the paper uses 4.
        length_penalty: the alpha of `length_divisor`, at least 0.
        eos: token that ends a text; None: every text has `max_new_tokens` tokens.

    Returns: per prompt its hypotheses; fewer than `beam_size` where there are no more texts.

    Raises:
        ValueError: if a setting is out of range, or prompt and source do not fit.

    Source: Wu et al. 2016, section 7; Vaswani et al. 2017, section 6.1.

    Deviates: from Wu et al., without their coverage term and their pruning thresholds.
    """
    _require_positive("max_new_tokens", max_new_tokens)
    _require_positive("beam_size", beam_size)
    if not 0 <= length_penalty < math.inf:
        raise ValueError(f"length_penalty ({length_penalty}) must be at least 0 and finite; 0 turns it off")
    with _in_eval_mode(model):
        reader = _Reader(model, prompt, source, source_is_padding, use_cache=use_cache, copies=beam_size)
        _require_token("eos", eos, model.config.vocab_size)
        beams = _Beams(prompt, beam_size, max_new_tokens, length_penalty, eos)
        for _ in range(max_new_tokens):
            parents = beams.extend(reader.next_logits(beams.tokens).log_softmax(dim=-1))
            if beams.are_decided():
                break
            reader.select(parents)
    return beams.complete


class _Beams:
    """The unfinished and the complete texts of a beam search; rows of one prompt lie side by side."""

    def __init__(
        self, prompt: Int[Tensor, "batch time"], size: int, max_length: int, alpha: float, eos: int | None
    ) -> None:
        self.size, self.max_length, self.alpha, self.eos = size, max_length, alpha, eos
        self.prompt_length = prompt.shape[1]
        self.tokens = prompt.repeat_interleave(size, dim=0)
        # All beams of a prompt begin alike: only the first counts, or each text would be found many times.
        self.log_probability = torch.full((len(prompt), size), -math.inf, device=prompt.device)
        self.log_probability[:, 0] = 0.0
        self.complete: list[list[Hypothesis]] = [[] for _ in prompt]

    @property
    def length(self) -> int:
        """Tokens written so far."""
        return self.tokens.shape[1] - self.prompt_length

    def extend(self, log_probability: Float[Tensor, "rows vocab"]) -> Int[Tensor, " rows"]:
        """Continue each text by its best tokens; returns the row that each new text continues."""
        batch, vocab = len(self.complete), log_probability.shape[1]
        total = (self.log_probability.view(-1, 1) + log_probability).view(batch, -1)
        # Each text can end in one way, so twice the size leaves enough that do not end.
        best, flat = total.topk(min(2 * self.size, total.shape[1]))
        first_row = torch.arange(batch, device=flat.device)[:, None] * self.size
        rows, new = first_row + flat // vocab, flat % vocab
        ends = torch.full_like(new, self.length + 1 == self.max_length, dtype=torch.bool)
        if self.eos is not None:
            ends |= new == self.eos
        self._collect(best, rows, new, ends)
        self.log_probability, kept = best.masked_fill(ends, -math.inf).topk(self.size)
        rows, new = rows.gather(1, kept).view(-1), new.gather(1, kept).view(-1, 1)
        self.tokens = torch.cat([self.tokens[rows], new.to(self.tokens.dtype)], dim=1)
        return rows

    def _collect(
        self,
        best: Float[Tensor, "batch candidates"],
        rows: Int[Tensor, "batch candidates"],
        new: Int[Tensor, "batch candidates"],
        ends: Bool[Tensor, "batch candidates"],
    ) -> None:
        """File the texts that end here and are among the best of this step."""
        divisor = length_divisor(self.length + 1, self.alpha)
        counts = ends[:, : self.size] & best[:, : self.size].isfinite()
        for prompt, candidate in counts.nonzero().tolist():
            written = self.tokens[rows[prompt, candidate], self.prompt_length :].tolist()
            log_probability = best[prompt, candidate].item()
            hypothesis = Hypothesis(
                tokens=(*written, int(new[prompt, candidate])),
                log_probability=log_probability,
                score=log_probability / divisor,
            )
            self.complete[prompt].append(hypothesis)
        for found in self.complete:
            found.sort(key=lambda hypothesis: hypothesis.score, reverse=True)
            del found[self.size :]

    def are_decided(self) -> bool:
        """Whether no unfinished text can still enter the list of complete ones.

        A text only loses probability as it grows, and the divisor is largest at the greatest length: that
        bounds what an unfinished text can still score.
        """
        attainable = self.log_probability[:, 0] / length_divisor(self.max_length, self.alpha)
        to_beat = [found[-1].score if len(found) == self.size else -math.inf for found in self.complete]
        return all(bound <= score for bound, score in zip(attainable.tolist(), to_beat, strict=True))


class _Reader:
    """Gives the logits of the next token, reading as little as it can.

    Args:
        copies: rows that are written per row of the prompt and of the source.
    """

    def __init__(
        self,
        model: LanguageModel | Seq2Seq,
        prompt: Int[Tensor, "batch time"],
        source: Int[Tensor, "batch source_len"] | None,
        source_is_padding: Bool[Tensor, "batch source_len"] | None,
        *,
        use_cache: bool,
        copies: int = 1,
    ) -> None:
        if not prompt.numel():
            raise ValueError(f"prompt (of shape {tuple(prompt.shape)}) is empty; begin with at least one token")
        self.model = model
        self.states = _states(model, prompt, source, source_is_padding, copies)
        self.cache = model.new_cache() if use_cache else None

    def next_logits(self, tokens: Int[Tensor, "rows time"]) -> Float[Tensor, "rows vocab"]:
        """Logits of what follows the tokens, which continue those of the last call."""
        if tokens.shape[1] > self.model.config.max_len:
            self.cache = None
        read = 0 if self.cache is None else len(self.cache)
        window = tokens[:, read:][:, -self.model.config.max_len :]
        logits = self.model.head(self.states(window, self.cache)[:, -1])
        # Sums of log-probabilities need more digits than bfloat16 has.
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """From now on, row i continues what was row rows[i]."""
        if self.cache is not None:
            self.cache.select(rows)


def _states(
    model: LanguageModel | Seq2Seq,
    prompt: Int[Tensor, "batch time"],
    source: Int[Tensor, "batch2 source_len"] | None,
    source_is_padding: Bool[Tensor, "batch2 source_len"] | None,
    copies: int,
) -> _States:
    """The function that reads tokens with this model, the source already read."""
    if isinstance(model, LanguageModel):
        if source is not None or source_is_padding is not None:
            raise ValueError("a LanguageModel reads no source; put the text into prompt, or use a Seq2Seq")
        return model.states
    if not isinstance(model, Seq2Seq):
        kind = type(model).__name__
        raise TypeError(f"model ({kind}) must be a LanguageModel or a Seq2Seq; if compiled, pass the original")
    if source is None:
        raise ValueError("a Seq2Seq needs a source to read; pass source=")
    if len(source) != len(prompt):
        raise ValueError(f"source (rows: {len(source)}) must have as many rows as prompt ({len(prompt)})")
    memory = model.encode(source, source_is_padding).repeat_interleave(copies, dim=0)
    hidden = None if source_is_padding is None else source_is_padding.repeat_interleave(copies, dim=0)
    return lambda tokens, cache: model.decode(tokens, memory, hidden, cache=cache)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _require_token(name: str, value: int | None, vocab_size: int) -> None:
    if value is not None and not 0 <= value < vocab_size:
        raise ValueError(
            f"{name} ({value}) must be at least 0 and below vocab_size ({vocab_size}); "
            "do tokenizer and model belong together?"
        )


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} ({value}) must be at least 1")
