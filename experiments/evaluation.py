"""How good a model is on text that it has not seen."""

import math
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from experiments.tasks import Task, Translation


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The loss on held-out text.

    Args:
        loss: nats per token. It compares runs with the same tokenizer only.
        bits_per_byte: bits per byte of UTF-8 text; compares runs whatever their vocabulary.
        tokens: how many targets were asked.
    """

    loss: float
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def evaluate(task: Task[Any], model: nn.Module, *, max_batches: int | None = None) -> Evaluation:
    """The loss over the held-out batches, each token counting the same; the model's mode is restored.

    Args:
        task: knows the batches and how the model is called.
        model: is asked in evaluation mode, on the device where it is.
        max_batches: look at no more than these first ones; None: all.
    """
    device = next(model.parameters()).device
    nats, tokens, num_bytes = 0.0, 0, 0
    was_training = model.training
    model.eval()
    for batch in islice(task.held_out(), max_batches):
        nats += float(task.loss_sum(model, task.to(batch, device)))
        tokens += task.count(batch)
        num_bytes += task.count_bytes(batch)
    model.train(was_training)
    return Evaluation(loss=nats / tokens, bits_per_byte=nats / math.log(2) / num_bytes, tokens=tokens)


def bleu(task: Translation, model: nn.Module, *, max_pairs: int = 200, beam_size: int = 4) -> float:
    """sacreBLEU of beam-search translations of held-out lines, 0 to 100.

    Args:
        task: knows the lines.
        model: an encoder-decoder of this run.
        max_pairs: translate no more than these first ones.
        beam_size: unfinished translations kept per line.

    Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores".
    """
    import sacrebleu

    pairs = task.corpus_lines(max_pairs)
    size = task.config.data.batch_size
    sources = [source for source, _ in pairs]
    written = [
        line
        for start in range(0, len(sources), size)
        for line in task.translated(
            model, sources[start : start + size], max_new_tokens=task.config.data.context, beam_size=beam_size
        )
    ]
    return sacrebleu.corpus_bleu(written, [[reference for _, reference in pairs]]).score
