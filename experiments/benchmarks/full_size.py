"""How long a diagnosis takes at the size of the run that this project began with.

    python -m experiments.benchmarks.full_size --defect softmax_before_cross_entropy --seconds 60 --out full_size.json

Encoder-decoder, d_model 128, 6 + 6 layers, 8 heads, vocabulary 8063, context 10, batch 100, on tokens drawn by Zipf's
law; with the defects that are named, or sound.
"""

import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics import Budget, Diagnosis, Subject, TokenView, examine
from diagnostics.examination import built_once, probes_of, take_readings
from diagnostics.faults import CATALOGUE
from experiments.config import DefectsConfig
from experiments.stuck import StuckModel, generation_logits

VOCAB, CONTEXT, BATCH, TOKENS = 8063, 10, 100, 100_000
RATE = 1e-3


def full_size(defects: DefectsConfig) -> Subject:
    """The setup at full size, with these defects."""
    frequencies = 1 / torch.arange(1, VOCAB + 1)
    stream = torch.multinomial(frequencies, TOKENS, replacement=True, generator=torch.Generator().manual_seed(0))

    def batches(seed: int) -> Iterator[Int[Tensor, "batch stream"]]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(TOKENS // (BATCH * CONTEXT)):
            starts = torch.randint(TOKENS - CONTEXT, (BATCH,), generator=generator)
            yield stream[starts[:, None] + torch.arange(CONTEXT + 1)]

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return StuckModel(
            vocab_size=VOCAB, d_model=128, num_heads=8, num_layers=6, d_ff=512, context=CONTEXT, dropout=0.1,
            defects=defects,
        )  # fmt: skip

    def logits(model: nn.Module, batch: Int[Tensor, "batch stream"]) -> Float[Tensor, "batch time vocab"]:
        return model(batch[:, :-1], batch[:, 1:])

    def next_logits(model: nn.Module, context: Int[Tensor, "batch context"]) -> Float[Tensor, "batch vocab"]:
        assert isinstance(model, StuckModel)
        return generation_logits(model, context)

    return Subject(
        name="full size",
        model=build(0),
        build=build,
        loss=lambda model, batch: F.cross_entropy(logits(model, batch).flatten(0, 1), batch[:, 1:].flatten()),
        batches=batches,
        optimizer=lambda model: torch.optim.AdamW(model.parameters(), lr=RATE),
        token_view=TokenView(
            vocab_size=VOCAB,
            tokens=lambda batch: batch,
            with_tokens=lambda batch, tokens: tokens,
            logits=logits,
            targets=lambda batch: batch[:, 1:],
            next_logits=next_logits,
        ),
    )


def forward_seconds(subject: Subject) -> dict[str, float]:
    """Seconds of every forward probe, one after the other on one thread."""
    probes = probes_of(CATALOGUE, ("forward",))
    readings = take_readings(built_once(subject), probes, seed=0, progress=lambda *_: None, workers=1)
    return {name: round(reading.seconds, 3) for name, reading in readings.items()}


def told(diagnosis: Diagnosis) -> dict[str, object]:
    """What the benchmark keeps of a diagnosis."""
    causes = [{"id": cause.id, "role": cause.role, "confirmed": cause.confirmed} for cause in diagnosis.causes]
    return {"state": diagnosis.state, "causes": causes, "runs": len(diagnosis.runs), "left_out": diagnosis.left_out}


def benchmark(
    defect: Annotated[list[str] | None, typer.Option(help="A field of DefectsConfig; repeatable.")] = None,
    seconds: Annotated[float, typer.Option(help="That the diagnosis may take, about.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write. Default: standard output")] = None,
) -> None:
    """Time the forward probes, and a whole diagnosis; the figures are JSON."""
    subject = full_size(DefectsConfig(**dict.fromkeys(defect or (), True)))
    forward = forward_seconds(subject)
    start = time.perf_counter()
    diagnosis = examine(subject, budget=Budget(seconds=seconds))
    figures = {
        "machine": platform.platform(),
        "defects": defect or [],
        "forward seconds": round(sum(forward.values()), 2),
        "diagnosis seconds": round(time.perf_counter() - start, 1),
        **told(diagnosis),
        "forward seconds by probe": forward,
    }
    report = json.dumps(figures, indent=1)
    if out:
        out.write_text(report + "\n", "utf-8")
    else:
        print(report)


if __name__ == "__main__":
    typer.run(benchmark)
