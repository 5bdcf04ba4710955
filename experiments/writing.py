"""Text from a run's folder: its own weights and its own tokenizer, whether or not the corpus is still there."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor, nn

import bpe
from experiments.checkpoint import read_checkpoint
from experiments.config import RunConfig
from experiments.corpora import Corpus, PairCorpus
from experiments.data import Prepared, PreparedPairs
from experiments.record import RunRecord
from experiments.stuck import StuckModel, generation_logits
from experiments.tasks import AnyTask, StuckNextToken, Translation, task
from transformer.generation import Sampling, beam_search, generate
from transformer.language_model import LanguageModel

FIRST_WORDS = "\n"
BEAM = 4
"""Unfinished translations kept per line, as in Vaswani et al. 2017, section 6.1."""


@dataclass(frozen=True)
class Writer:
    """A trained model with its tokenizer; `load_writer` makes one."""

    task: AnyTask
    model: nn.Module

    def text(
        self,
        prompt: str | None,
        *,
        num_tokens: int,
        sampling: Sampling = Sampling(),  # noqa: B008, frozen
        beam: int | None = None,
        seed: int = 0,
    ) -> str:
        """The prompt and what the model writes after it; for a run on pairs, the prompt's translation.

        Args:
            prompt: how the text begins; None: at the start of a line.
            num_tokens: at most so many tokens are added.
            sampling: how one token is drawn.
            beam: search with so many unfinished texts instead of drawing.
            seed: decides what is drawn.
        Raises:
            ValueError: no prompt to translate, an empty one, or a setting that would have no effect.
        """
        if isinstance(self.task, Translation):
            return self._translation(prompt, num_tokens, sampling, beam)
        start = torch.tensor([self.task.tokenizer.encode(FIRST_WORDS if prompt is None else prompt)])
        if not start.numel():
            raise ValueError("the prompt is empty; give at least one character, or leave --prompt out")
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.task, StuckNextToken):
            tokens = self._drawn_as_the_run_does(start, num_tokens, sampling, beam, generator)
        else:
            tokens = self._continued(start, num_tokens, sampling, beam, generator)
        return self.task.tokenizer.decode(tokens)

    def _continued(
        self,
        start: Int[Tensor, "1 time"],
        num_tokens: int,
        sampling: Sampling,
        beam: int | None,
        generator: torch.Generator,
    ) -> list[int]:
        assert isinstance(self.model, LanguageModel)
        if beam is not None:
            best = beam_search(self.model, start, max_new_tokens=num_tokens, beam_size=beam)[0][0]
            return [*start[0].tolist(), *best.tokens]
        drawn = generate(
            self.model,
            start,
            max_new_tokens=num_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            greedy=sampling.greedy,
            generator=generator,
        )
        return drawn[0].tolist()

    def _drawn_as_the_run_does(
        self,
        start: Int[Tensor, "1 time"],
        num_tokens: int,
        sampling: Sampling,
        beam: int | None,
        generator: torch.Generator,
    ) -> list[int]:
        """What the stuck run's own code writes, defects of its generation included."""
        assert isinstance(self.model, StuckModel)
        if beam is not None:
            raise ValueError(f"a stuck run draws its text and cannot search; leave out --beam ({beam})")
        tokens = start
        with torch.random.fork_rng(devices=[]):  # its dropout may be on
            torch.manual_seed(generator.initial_seed())
            for _ in range(num_tokens):
                new = sampling.choose(generation_logits(self.model, tokens), generator)
                tokens = torch.cat([tokens, new[:, None]], dim=1)
        return tokens[0].tolist()

    def _translation(self, prompt: str | None, num_tokens: int, sampling: Sampling, beam: int | None) -> str:
        assert isinstance(self.task, Translation)
        if not prompt:
            raise ValueError("this run translates and has no line to translate; give one with --prompt TEXT")
        if sampling != Sampling():
            raise ValueError("this run translates by beam search and draws nothing; leave out what shapes the drawing")
        return self.task.translated(self.model, [prompt], max_new_tokens=num_tokens, beam_size=beam or BEAM)[0]


def load_writer(folder: Path) -> Writer:
    """The model of a run as its last checkpoint left it.

    Args:
        folder: a record.
    Raises:
        ValueError: there is no run, or its files are damaged or do not fit each other.
    """
    record = RunRecord.open(folder)
    config = record.config
    asked = task(config, _only_a_tokenizer(config, bpe.load(record.tokenizer_path)))
    model = asked.build(config.seed)
    content = read_checkpoint(record.checkpoint_path)
    try:
        model.load_state_dict(content["model"])
    except (KeyError, TypeError, RuntimeError) as error:  # torch tells all names and shapes, over many lines
        raise ValueError(
            f"{record.checkpoint_path} does not fit the configuration and the tokenizer beside it; train anew"
        ) from error
    return Writer(asked, model)


def _only_a_tokenizer(config: RunConfig, tokenizer: bpe.Tokenizer) -> Prepared | PreparedPairs:
    """Data without text: writing needs the tokenizer alone."""
    if config.model.kind == "seq2seq":
        nothing = PairCorpus(train=(), held_out=())
        return PreparedPairs(corpus=nothing, tokenizer=tokenizer, train=(), held_out=(), left_out=0)
    none = torch.tensor([], dtype=torch.long)
    return Prepared(corpus=Corpus(train="", held_out=""), tokenizer=tokenizer, train=none, held_out=none)
