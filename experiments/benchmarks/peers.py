"""Other tools on the same cases: what each says of a planted fault and of its healthy twin, and what it costs.

    python -m experiments.benchmarks.peers --out peers.json --page peers.md

The peers are no dependencies; one that is absent is said to be, and one that raises is quoted:

    pip install lightning torch-lr-finder defaultplusplus

Overhead is wall-clock seconds per training step with the tool over seconds without it, measured in turns; starting a
tool, and what it works out after the steps, is left out. A diagnosis
of ours runs apart from training, so its cost is the seconds of the whole diagnosis.
"""

import gc
import importlib.metadata
import io
import json
import logging
import platform
import statistics
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from diagnostics.bench import Bench, Step, open_bench
from diagnostics.examination import examine
from diagnostics.subject import Batch, Subject
from experiments.benchmarks.cases import Case, make
from experiments.benchmarks.faults import BUDGET, one_line
from experiments.benchmarks.subjects import BATCHES_PER_PASS
from experiments.tracking import watched_by_wandb

PLANTED = (
    ("decoder-only", "softmax-before-cross-entropy"),
    ("decoder-only", "targets-not-shifted"),
    ("decoder-only", "learning-rate-zero"),
    ("decoder-only", "parameters-not-in-the-optimizer"),
    ("gpt2", "softmax-before-cross-entropy"),
    ("gpt2", "future-token-leak"),
    ("gpt2", "position-blind"),
    ("gpt2", "gradients-not-zeroed"),
    ("mlp", "labels-constant"),
    ("mlp", "learning-rate-too-high"),
)
"""(subject, fault); the twin of a case is the subject without the fault. GPT-2 carries the two for which DEFault++
has a name too (future-token-leak and position-blind), because it takes Hugging Face models only."""

SAME_CAUSE = {
    "positional/missing_positional": "position-blind",
    "decoder_masking/break_causal_mask": "future-token-leak",
    "masking/zero_mask": "future-token-leak",
}
"""Names that DEFault++ has for faults of the list."""

STEPS = 100  # of every tool on every case; the default of both range tests
WATCHED_STEPS = 20  # of wandb.watch, which writes every histogram at every step
TIMED_STEPS = 50  # of each turn of the overhead
TIMED_ON = "gpt2"  # the only subject that every tool accepts
SAME_LOSS = 1e-5  # nats; eager attention moves a loss by 0, one that loses the planted leak on the way by 8e-5
LONGEST_CELL = 90  # characters of an error that fit into a cell
PACKAGES = ("torch", "transformers", "wandb", "lightning", "torch-lr-finder", "defaultplusplus")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a tool said of one case.

    Args:
        says: a loss, a rate, an alarm, a cause or an error, in a few words.
        cause: the cause that it names first, in its own words; empty for none.
        right: whether that is the planted fault.
        alarm: whether it calls the case faulty; None for a tool that passes no judgement, or did not run.
        seconds: that it took.
    """

    tool: str
    subject: str
    fault: str
    says: str
    cause: str = ""
    right: bool = False
    alarm: bool | None = None
    ran: bool = True
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Seconds per training step with a tool over seconds without it, one ratio for each turn; or why there is none."""

    tool: str
    ratios: tuple[float, ...] = ()
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a tool's run on one subject came to; ``steps`` are those that it trained for, ``seconds`` what they took
    without setting up."""

    says: str
    cause: str = ""
    alarm: bool | None = None
    steps: int = 0
    seconds: float = 0.0


Tool = Callable[[Subject, int], Answer]
"""Runs the tool on a subject for so many steps."""


def unplateau(subject: Subject, steps: int) -> Answer:
    """The whole examination, on the benchmark's budget."""
    diagnosis = examine(subject, budget=BUDGET)
    if not diagnosis.causes:
        return Answer(says=diagnosis.state, alarm=False)
    first = diagnosis.causes[0]
    return Answer(says=f"{first.id}, {'' if first.confirmed else 'not '}confirmed", cause=first.id, alarm=True)


def overfit_batches(subject: Subject, steps: int) -> Answer:
    """Lightning's Trainer on one batch: the loss in the end."""
    with open_bench(subject, 0) as bench, tempfile.TemporaryDirectory() as folder:
        module, trainer = lightning_module(bench), lightning_trainer(bench, folder, steps, overfit_batches=1)
        start = time.perf_counter()
        trainer.fit(module, batches_of(bench))
        seconds = time.perf_counter() - start
        return Answer(says=f"loss {module.losses[-1]:.3g}", steps=len(module.losses), seconds=seconds)


def lr_find(subject: Subject, steps: int) -> Answer:
    """Lightning's range test: the rate that it suggests. It steps no schedule, its own either, in a manual loop."""
    from lightning.pytorch.tuner.tuning import Tuner

    refuse_own_steps(subject)
    with open_bench(subject, 0) as bench, tempfile.TemporaryDirectory() as folder:
        module, trainer = lightning_module(bench), lightning_trainer(bench, folder, steps)
        start = time.perf_counter()
        found: Any = Tuner(trainer).lr_find(module, batches_of(bench), num_training=steps)
        seconds = time.perf_counter() - start
        rate = None if found is None else found.suggestion()
        says = "no rate" if rate is None else f"rate {rate:.1e}"
        return Answer(says=says, steps=len(module.losses), seconds=seconds)


def torch_lr_finder(subject: Subject, steps: int) -> Answer:
    """torch-lr-finder's range test: the rate that it suggests. It makes its own optimizer steps."""
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder, TrainDataLoaderIter

    refuse_own_steps(subject)

    class WholeBatches(TrainDataLoaderIter):
        def inputs_labels_from_batch(self, batch_data: Batch) -> tuple[Batch, torch.Tensor]:
            return batch_data, torch.zeros(())

    with open_bench(subject, 0) as bench:
        model = LossOf(bench)
        finder = LRFinder(model, subject.optimizer(bench.model), lambda loss, _: loss, device="cpu")
        start = time.perf_counter()
        finder.range_test(WholeBatches(batches_of(bench)), start_lr=1e-7, end_lr=10, num_iter=steps)
        seconds = time.perf_counter() - start
        _, rate = finder.plot(ax=Figure().subplots(), suggest_lr=True)
        return Answer(says=f"rate {rate:.1e}", steps=len(finder.history["loss"]), seconds=seconds)


def refuse_own_steps(subject: Subject) -> None:
    """Raises: ValueError: the subject's step is its own, and a range test makes the steps itself."""
    if subject.step is not None:
        raise ValueError("it makes the steps itself; the fault is in ours")


def wandb_watch(subject: Subject, steps: int) -> Answer:
    """wandb.watch(log="all", log_freq=1) in an offline run: how many histograms it wrote, and the loss."""
    with (
        open_bench(subject, 0) as bench,
        tempfile.TemporaryDirectory() as folder,
        watched_by_wandb(bench.model, Path(folder)) as run,
    ):
        start = time.perf_counter()
        losses = bench.train(bench.fresh_batches(), steps, after_update=lambda step: run.log({"loss": step.loss}))
        seconds = time.perf_counter() - start
        histograms = sum(key.startswith(("gradients/", "parameters/")) for key in run.summary.keys())  # noqa: SIM118
        return Answer(says=f"{histograms} histograms", steps=len(losses), seconds=seconds)


def default_plus_plus(subject: Subject, steps: int) -> Answer:
    """DEFault++'s extractor over a training run, then its learned diagnosis."""
    from defaultplusplus import FeatureExtractor
    from defaultplusplus.diagnosis import load_pretrained
    from defaultplusplus.processing import RuntimeNormalizer

    with open_bench(subject, 0) as bench:
        before = loss_in_eval_mode(bench)
        model, outputs = hugging_face_model(bench.model)
        if abs(loss_in_eval_mode(bench) - before) > SAME_LOSS:
            raise ValueError("the planted fault is not in the attention that it needs")
        outputs.clear()
        batches, now = bench.fresh_batches(), list[Batch]()
        with FeatureExtractor(model) as extractor:

            def tell(step: Step) -> None:
                tokens = bench.tokens.tokens(now[-1])
                extractor.step(
                    loss=step.loss, outputs=outputs[-1], input_ids=tokens[:, :-1],
                    labels=tokens[:, 1:].contiguous(), optimizer=step.optimizer,
                )  # fmt: skip
                outputs.clear()
                if (step.index + 1) % BATCHES_PER_PASS == 0:
                    extractor.epoch_end()

            start = time.perf_counter()
            losses = bench.train(remembered(batches, now), steps, after_update=tell)
            seconds = time.perf_counter() - start
            features = RuntimeNormalizer.load(extractor.arch).encode(extractor.finalize())
            found = load_pretrained(extractor.arch).predict(features).to_dict()
    alarm = bool(found["is_faulty"])
    cause = f"{found['category']}/{found['root_cause']}" if alarm else ""
    says = f"{cause or 'sound'}, p of a fault {found['detection_prob']:.2f}"
    return Answer(says=says, cause=cause, alarm=alarm, steps=len(losses), seconds=seconds)


TOOLS: Mapping[str, Tool] = {
    "unplateau": unplateau,
    "DEFault++": default_plus_plus,
    "overfit_batches": overfit_batches,
    "lr_find": lr_find,
    "torch-lr-finder": torch_lr_finder,
    "wandb.watch": wandb_watch,
}


def hugging_face_model(model: nn.Module) -> tuple[nn.Module, list[Any]]:
    """The Hugging Face model in a model, and a list that receives its outputs, attention weights among them.

    The model itself where there is none in it: DEFault++ then says what it wants.
    """
    from transformers import PreTrainedModel

    outputs: list[Any] = []
    found = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    if found is None:
        return model, outputs
    found.set_attn_implementation("eager")  # the others give no attention weights
    found.config.output_attentions = found.config.output_hidden_states = True
    found.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return found, outputs


def loss_in_eval_mode(bench: Bench) -> float:
    """The loss of the first batch without dropout."""
    bench.model.eval()
    with torch.no_grad():
        return float(bench.loss())


def remembered(batches: Iterator[Batch], now: list[Batch]) -> Iterator[Batch]:
    """The same batches; the one that was given last is in ``now``."""
    for batch in batches:
        now[:] = [batch]
        yield batch


class LossOf(nn.Module):
    """A bench's loss as a module, for tools that want to call one."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.model, self.subject = bench.model, bench.subject

    def forward(self, batch: Batch) -> torch.Tensor:
        return self.subject.loss(self.model, batch)


def batches_of(bench: Bench) -> Any:
    """One pass over the training batches as a DataLoader."""
    batches: Any = list(bench.subject.batches(bench.seed))  # a list serves as a dataset
    return torch.utils.data.DataLoader(batches, batch_size=None)


def lightning_module(bench: Bench) -> Any:
    """The bench's subject as a LightningModule: its loss or its own step, its optimizer, its schedule."""
    from lightning.pytorch import LightningModule

    subject = bench.subject

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = bench.model, list[float]()
            self.lr = subject.optimizer(bench.model).param_groups[0]["lr"]
            self.automatic_optimization = subject.step is None

        def training_step(self, batch: Batch, index: int) -> torch.Tensor:
            if subject.step is None:
                loss = subject.loss(self.model, batch)
            else:
                optimizer: Any = self.optimizers()  # one, wrapped
                loss = subject.step(self.model, optimizer, batch)
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = subject.optimizer(self.model)
            if subject.schedule is None:
                return optimizer
            scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, subject.schedule)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    return Module()


def lightning_trainer(bench: Bench, folder: str, steps: int, **settings: Any) -> Any:
    """A Trainer that keeps to itself: no logger, no checkpoints, no progress bar."""
    from lightning.pytorch import Trainer

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clip_norm = bench.subject.clip_norm if bench.subject.step is None else None  # a step of its own clips by itself
    return Trainer(
        accelerator="cpu", gradient_clip_val=clip_norm, max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
        **settings,
    )  # fmt: skip


def quietly(tool: Tool, subject: Subject, steps: int) -> Answer:
    """The tool's answer without what it prints."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        return tool(subject, steps)


def why_not(error: BaseException) -> str:
    """An error in a cell's words."""
    if isinstance(error, ModuleNotFoundError):
        return f"not installed ({error.name})"
    words = one_line(error) if isinstance(error, Exception) else "it ended the process"
    return textwrap.shorten(f"did not run: {type(error).__name__}: {words}", LONGEST_CELL, placeholder=" ...")


def ask(name: str, subject: Subject, case: Case) -> Said:
    """What a tool says of a case; where it raises, that."""
    fault, start = "".join(case.faults), time.perf_counter()
    steps = WATCHED_STEPS if name == "wandb.watch" else STEPS
    try:
        answer = quietly(TOOLS[name], subject, steps)
    except (Exception, SystemExit) as error:  # whatever a peer raises is what the table says of it
        return Said(tool=name, subject=case.subject, fault=fault, says=why_not(error), ran=False)
    return Said(
        tool=name,
        subject=case.subject,
        fault=fault,
        says=answer.says,
        cause=answer.cause,
        right=bool(fault) and SAME_CAUSE.get(answer.cause, answer.cause) == fault,
        alarm=answer.alarm,
        seconds=time.perf_counter() - start,
    )


def overhead(name: str, subject: Subject, rounds: int) -> Overhead:
    """Ratios of seconds per step, without and with the tool in turns (A B A B ...)."""
    ratios = []
    try:
        quietly(TOOLS[name], subject, TIMED_STEPS)  # imports and first calls
        for _ in range(rounds):
            without = seconds_per_step(plain_training, subject)
            ratios.append(seconds_per_step(TOOLS[name], subject) / without)
    except (Exception, SystemExit) as error:
        return Overhead(tool=name, error=why_not(error))
    return Overhead(tool=name, ratios=tuple(ratios))


def plain_training(subject: Subject, steps: int) -> Answer:
    """The same steps without any tool."""
    with open_bench(subject, 0) as bench:
        start = time.perf_counter()
        losses = bench.train(bench.fresh_batches(), steps)
        return Answer(says="", steps=len(losses), seconds=time.perf_counter() - start)


def seconds_per_step(tool: Tool, subject: Subject) -> float:
    """Wall-clock seconds of the steps of one run, over how many it made."""
    gc.collect()
    answer = quietly(tool, subject, TIMED_STEPS)
    return answer.seconds / answer.steps


def cases() -> list[Case]:
    """The planted cases, then one healthy twin for each subject."""
    subjects = dict.fromkeys(subject for subject, _ in PLANTED)
    return [
        *(Case(kind="planted", subject=subject, faults=(fault,)) for subject, fault in PLANTED),
        *(Case(kind="healthy", subject=subject) for subject in subjects),
    ]


def versions() -> dict[str, str]:
    """Versions of what takes part; "not installed" where it does not."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def table(said: Sequence[Said], overheads: Sequence[Overhead]) -> str:
    """One Markdown table: a row for each case, a column for each tool, the counts and the cost below; a right cause
    is bold."""
    tools = list(dict.fromkeys(each.tool for each in said))
    rows = [["case", *tools], ["---"] * (len(tools) + 1)]
    for subject, fault in dict.fromkeys((each.subject, each.fault) for each in said):
        of_case = {each.tool: each for each in said if (each.subject, each.fault) == (subject, fault)}
        rows.append([f"{subject}: {fault or 'healthy'}", *(cell(of_case.get(tool)) for tool in tools)])
    by_tool = [[each for each in said if each.tool == tool] for tool in tools]
    rows.append(["*names the planted cause*", *(share([s for s in each if s.fault], "right") for each in by_tool)])
    rows.append(["*alarms on healthy*", *(share([s for s in each if not s.fault], "alarm") for each in by_tool)])
    rows.append(["*cost*", *(cost(tool, said, overheads) for tool in tools)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def cell(said: Said | None) -> str:
    """What a tool said, safe within a Markdown table."""
    if said is None:
        return "not run"
    words = said.says.replace("|", "\\|").replace("\n", " ")
    return f"**{words}**" if said.right else words


def share(said: Sequence[Said], what: str) -> str:
    """So many of those that it ran on; a tool that passes no judgement raises no alarm and has no count of them."""
    ran = [each for each in said if each.ran]
    if not ran:
        return "did not run"
    if what == "alarm" and all(each.alarm is None for each in ran):
        return "passes no judgement"
    return f"{sum(bool(getattr(each, what)) for each in ran)} of {len(ran)}"


def cost(tool: str, said: Sequence[Said], overheads: Sequence[Overhead]) -> str:
    """Median and range: of the ratios per step where they were measured, else of the seconds per case."""
    measured = next((each for each in overheads if each.tool == tool), None)
    if measured is not None:
        return measured.error or f"{spread(measured.ratios)} x a step"
    seconds = [each.seconds for each in said if each.tool == tool and each.ran]
    return f"{spread(seconds)} s a diagnosis" if seconds else "not measured"


def spread(values: Sequence[float]) -> str:
    """Median, and the range in brackets."""
    return f"{statistics.median(values):.2g} ({min(values):.2g}-{max(values):.2g})"


def benchmark(
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("peers.json"),
    page: Annotated[Path, typer.Option(help="Markdown file to write.")] = Path("peers.md"),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of the overhead.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="A tool; repeatable. Default: all")] = None,
    most: Annotated[int, typer.Option(help="Cases at most, for a try.")] = 99,
) -> None:
    """Ask every tool about every case, and time them."""
    names = [name for name in TOOLS if not only or name in only]
    said = [ask(name, make(case), case) for case in cases()[:most] for name in names]
    timed = make(Case(kind="healthy", subject=TIMED_ON))
    overheads = [overhead(name, timed, rounds) for name in names if name != "unplateau"]
    figures = {
        "versions": versions(),
        "said": [asdict(each) for each in said],
        "overheads": [asdict(each) for each in overheads],
    }
    out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    page.write_text(table(said, overheads), "utf-8")
    print(table(said, overheads))


if __name__ == "__main__":
    typer.run(benchmark)
