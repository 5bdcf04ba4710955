"""The stuck run, taken apart: each defect repaired alone, left alone, and the ones that must come together.

    python -m experiments.benchmarks.stuck_table --seeds 2 --steps 250 --json stuck_table.json

Losses in a row are in nats per token, one number per seed:
`one batch`  the loss on one fixed batch after `--batch-steps` steps on it, dropout off;
`train`      the mean loss over the last steps of a run on fresh batches;
`honest`     the held-out loss of the token after a whole window, with the generation path repaired;
`sampled`    the same in the way this row generates, whatever is wrong with that.

The one batch has the vocabulary of the recipe. The other three have one that can be learned from so little text
(`READABLE`), because over raw text not even the sound model beats token frequencies: the last table shows it.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from itertools import count, islice, repeat
from math import log
from pathlib import Path
from statistics import fmean
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from jaxtyping import Float, Int
from torch import Tensor

from experiments.config import CorpusConfig, DataConfig, DefectsConfig, RunConfig, TokenizerConfig, override
from experiments.data import Prepared, bytes_per_token, prepare, training_windows
from experiments.recipes import recipe
from experiments.stuck import StuckModel, generation_logits

Overrides = Mapping[str, object]
Windows = Int[Tensor, "batch time_plus_1"]

PROCESSES = 2
LAST_STEPS = 20
"""Steps that the training loss is averaged over."""

WITHOUT_EFFECT = ("history_keeps_the_graph", "parameters_not_registered")
"""Defects that no loss can show; the tables leave them out."""

OPTIMIZER_REPAIRS: dict[str, Overrides] = {
    "learning_rate": {"optim.lr": 3e-3},
    "warm_up": {"optim.warmup_steps": 40},
    "clipping": {"optim.clip_norm": 1.0},
}

LADDER = (
    ["softmax_before_cross_entropy"],
    ["embedding_scale", "no_final_norm", "untied_head"],
    ["positions_added_twice"],
    ["learning_rate", "warm_up"],
)
"""What must come together for one batch to stand at the ceiling; each rung adds to those before."""

VISIBLE = ["softmax_before_cross_entropy", "targets_not_shifted", "no_final_norm", "embedding_scale"]
LEAKS: dict[str, list[str]] = {
    "neither leak": [],
    "future_token_leak": ["future_token_leak"],
    "norm_over_the_wrong_axis": ["norm_over_the_wrong_axis"],
    "both leaks": ["future_token_leak", "norm_over_the_wrong_axis"],
}
"""The two leaks that stand in for each other, once the repairs that show by themselves are made."""

READABLE: Overrides = {"tokenizer.split": "gpt4", "tokenizer.vocab_size": 1000}
VOCABULARIES: dict[str, Overrides] = {
    "as in the recipe": {},
    "1000, split into words": READABLE,
    "500, split into words": {"tokenizer.split": "gpt4", "tokenizer.vocab_size": 500},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a variation of the stuck recipe, and what it changes for the runs on fresh batches."""

    table: str
    name: str
    config: RunConfig
    fresh: Overrides


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What one row showed with one seed, in nats per token; `unigram` is the held-out loss of frequencies."""

    one_batch: float
    train: float
    honest: float
    sampled: float
    unigram: float
    bytes_per_token: float
    milliseconds_per_step: float


def repairs() -> dict[str, Overrides]:
    """Every repair by name, as what it overrides in the recipe."""
    names = [each.name for each in fields(DefectsConfig) if each.name not in WITHOUT_EFFECT]
    return {name: {f"defects.{name}": False} for name in names} | OPTIMIZER_REPAIRS


def repaired(config: RunConfig, names: Iterable[str]) -> RunConfig:
    """`config` with the named repairs made."""
    changes: dict[str, object] = {}
    for name in names:
        changes |= repairs()[name]
    return override(config, changes)


def without_repairing(*left: str) -> list[str]:
    """Every repair but those of the named defects."""
    return [name for name in repairs() if name not in left]


def rows(stuck: RunConfig) -> Iterator[Row]:
    """The lines of all tables."""
    sound = repaired(stuck, repairs())
    yield Row(table="fix only", name="nothing", config=stuck, fresh=READABLE)
    for name in repairs():
        yield Row(table="fix only", name=name, config=repaired(stuck, [name]), fresh=READABLE)
    yield Row(table="break only", name="nothing", config=sound, fresh=READABLE)
    for name in repairs():
        yield Row(table="break only", name=name, config=repaired(stuck, without_repairing(name)), fresh=READABLE)
    together: list[str] = []
    for more in LADDER:
        together += more
        left = repaired(stuck, without_repairing(*together))
        yield Row(table="ladder", name="+ " + ", ".join(more), config=left, fresh=READABLE)
    for name, leaks in LEAKS.items():
        yield Row(table="leaks repaired", name=name, config=repaired(stuck, [*VISIBLE, *leaks]), fresh=READABLE)
    for name, changes in VOCABULARIES.items():
        yield Row(table="vocabulary of the sound model", name=name, config=sound, fresh=changes)


@cache
def read(corpus: CorpusConfig, tokenizer: TokenizerConfig, data: DataConfig) -> Prepared:
    """The data of a run, once per process."""
    prepared = prepare(RunConfig(corpus=corpus, tokenizer=tokenizer, data=data))
    assert isinstance(prepared, Prepared)  # no recipe here reads pairs
    return prepared


def data_of(config: RunConfig) -> Prepared:
    """Token ids of the text that `config` names."""
    return read(config.corpus, config.tokenizer, config.data)


def batches(config: RunConfig, seed: int) -> Iterator[Windows]:
    """Fresh batches without end."""
    ids, data = data_of(config).train, config.data
    windows = partial(training_windows, ids, context=data.context, batch_size=data.batch_size, seed=seed)
    return (batch for epoch in count() for batch in windows(epoch=epoch))


def build(config: RunConfig, seed: int) -> StuckModel:
    """A freshly initialised model."""
    torch.manual_seed(seed)
    model = config.model
    return StuckModel(
        vocab_size=data_of(config).tokenizer.vocab_size,
        d_model=model.d_model,
        num_heads=model.num_heads,
        num_layers=model.num_layers,
        d_ff=model.d_ff,
        context=config.data.context,
        dropout=model.dropout,
        defects=config.defects,
    )


def loss(model: StuckModel, batch: Windows) -> Float[Tensor, ""]:
    """Cross-entropy of what the model returns, taken for logits; in the stuck run it is not."""
    x, y = batch[:, :-1], batch[:, 1:]
    return F.cross_entropy(model(x, y).flatten(0, 1), y.flatten())


def train(config: RunConfig, seed: int, data: Iterable[Windows]) -> tuple[StuckModel, list[float]]:
    """A model trained on `data` to its end, and the loss of every step."""
    model, optim = build(config, seed), config.optim
    optimizer = torch.optim.AdamW(model.parameters(), lr=optim.lr, betas=optim.betas, fused=True)
    losses = []
    for step, batch in enumerate(data, start=1):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * min(1.0, step / max(1, optim.warmup_steps))
        value = loss(model, batch)
        optimizer.zero_grad()
        value.backward()
        if optim.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip_norm)
        optimizer.step()
        losses.append(value.item())
    return model.eval(), losses


@torch.no_grad()
def next_token_loss(model: StuckModel, config: RunConfig) -> float:
    """Held-out loss of the token after each window, in the way the model generates."""
    context = config.data.context
    windows = data_of(config).held_out.unfold(0, context + 1, max(1, context // 3))
    return F.cross_entropy(generation_logits(model, windows[:, :-1]), windows[:, -1]).item()


def honest_loss(model: StuckModel, config: RunConfig) -> float:
    """`next_token_loss` with the generation path repaired."""
    own = model.defects
    model.defects = replace(own, generation_differs_from_training=False)
    honest = next_token_loss(model, config)
    model.defects = own
    return honest


def unigram_loss(config: RunConfig) -> float:
    """Held-out loss of the training text's token frequencies, one added to each count."""
    data = data_of(config)
    counts = torch.bincount(data.train, minlength=data.tokenizer.vocab_size) + 1.0
    return -(counts / counts.sum()).log()[data.held_out].mean().item()


def measure(row: Row, seed: int, steps: int, batch_steps: int) -> Losses:
    """Both runs of one row with one seed."""
    torch.set_num_threads(1)
    fixed = next(batches(row.config, seed))
    on_one, _ = train(row.config, seed, repeat(fixed, batch_steps))
    config = override(row.config, row.fresh)
    data = data_of(config)
    started = time.process_time()
    model, losses = train(config, seed, islice(batches(config, seed), steps))
    seconds = time.process_time() - started
    return Losses(
        one_batch=loss(on_one, fixed).item(),
        train=fmean(losses[-LAST_STEPS:]),
        honest=honest_loss(model, config),
        sampled=next_token_loss(model, config),
        unigram=unigram_loss(config),
        bytes_per_token=bytes_per_token(data.tokenizer)[data.held_out].float().mean().item(),
        milliseconds_per_step=1000 * seconds / steps,
    )


def line(row: Row, losses: list[Losses]) -> str:
    """A row of a table: every loss, one number per seed."""
    columns = ("one_batch", "train", "honest", "sampled")
    numbers = ["  ".join(f"{getattr(each, name):8.4f}" for each in losses) for name in columns]
    return f"{row.name:<50}" + " | ".join(numbers)


def bits_per_byte(nats_per_token: float, losses: Losses) -> float:
    """What a loss comes to per byte of held-out text."""
    return nats_per_token / losses.bytes_per_token / log(2)


def footnote(losses: list[Losses]) -> str:
    """Frequencies and the honest loss in both units, and what a step costs."""
    honest, unigram = (fmean(getattr(each, name) for each in losses) for name in ("honest", "unigram"))
    return (
        f"    unigram {unigram:.3f} nats, {bits_per_byte(unigram, losses[0]):.3f} bits/byte; "
        f"honest {honest:.3f} nats, {bits_per_byte(honest, losses[0]):.3f} bits/byte; "
        f"{fmean(each.milliseconds_per_step for each in losses):.1f} ms of CPU a step"
    )


def main(
    seeds: Annotated[int, typer.Option(help="runs of every row")] = 2,
    steps: Annotated[int, typer.Option(help="optimizer steps on fresh batches")] = 250,
    batch_steps: Annotated[int, typer.Option(help="optimizer steps on one batch")] = 60,
    tables: Annotated[str, typer.Option(help="only tables that begin so, such as 'fix'")] = "",
    changes: Annotated[list[str] | None, typer.Option("--set", help="override, as in model.d_model=64")] = None,
    report: Annotated[Path | None, typer.Option("--json", help="file for the numbers")] = None,
) -> None:
    """Print the tables of the stuck recipe."""
    stuck = override(recipe("stuck"), dict(change.split("=", 1) for change in changes or []))
    chosen = [row for row in rows(stuck) if row.table.startswith(tables)]
    for vocabulary in VOCABULARIES.values():
        data_of(override(stuck, vocabulary))  # learned once, before the processes ask for it
    found: list[dict[str, object]] = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        pending = [[pool.submit(measure, row, seed, steps, batch_steps) for seed in range(seeds)] for row in chosen]
        table = ""
        for row, runs in zip(chosen, pending, strict=True):
            if row.table != table:
                table = row.table
                print(f"\n{table:<50}one batch | train | honest | sampled; vocabulary", flush=True)
            losses = [run.result() for run in runs]
            print(line(row, losses), flush=True)
            if row.name == "nothing" or row.table.startswith("vocabulary"):
                print(footnote(losses), flush=True)
            found.append({"table": row.table, "row": row.name, "seeds": [asdict(each) for each in losses]})
    if report is not None:
        report.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
