"""What a run is: one frozen tree of settings, and `override`, the single way to change it.

Every setting is declared once, with its default, its meaning, its unit and its range: see
`experiments.settings`. Nothing here imports torch.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from experiments.settings import Section, Setting, put, section_from, setting, settings_of


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Section):
    """Which text a run reads."""

    source: str | tuple[str, ...] | None = setting(
        "lanterns",
        "running text: the built-in 'lanterns' or 'pydoc', or files and folders (.txt .srt .vtt .ass); "
        "None where the model reads pairs",
    )
    pairs: tuple[str, ...] | None = setting(
        None, "lines and their translations: one .tsv file, or two aligned text files; for 'seq2seq' only"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source in ((), ""):
            raise ValueError("source is empty; name 'lanterns', 'pydoc' or a path, or use None for pairs")
        if self.pairs is not None and len(self.pairs) not in (1, 2):
            raise ValueError(f"pairs ({len(self.pairs)} files) must be one .tsv file or two aligned text files")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Section):
    """How text becomes token ids."""

    vocab_size: int = setting(1000, "size of the vocabulary", unit="token types", at_least=2)
    split: str = setting("gpt4", "what merges may not cross: 'gpt4', 'none' (raw text) or a regular expression")
    alphabet: Literal["bytes", "characters"] = setting("bytes", "what the first tokens are")
    learn_from: Literal["train", "all"] = setting(
        "train", "text that merges are learned from: the training share, or all of it, held-out text included"
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """How token ids become batches."""

    context: int = setting(64, "length of a window; for pairs the longest line kept", unit="tokens", at_least=1)
    batch_size: int = setting(32, "windows or pairs per optimizer step", unit="windows", at_least=1)
    train_share: float = setting(
        0.9,
        "share of the text to train on; the rest is held out",
        unit="characters (pairs)",
        above=0,
        below=1,
    )


@dataclass(frozen=True, kw_only=True)
class ModelSection(Section):
    """The model. Sizes of weights follow the paper's names."""

    kind: Literal["language_model", "seq2seq", "stuck"] = setting(
        "language_model",
        "decoder only; encoder-decoder for pairs; or the seed run's encoder-decoder with defects",
    )
    d_model: int = setting(128, "width of the residual stream", unit="features", at_least=1)
    num_heads: int = setting(4, "attention heads per layer", at_least=1)
    num_layers: int = setting(4, "layers (per stack, where there are two)", at_least=1)
    d_ff: int = setting(512, "width inside the feed-forward layers", unit="features", at_least=1)
    dropout: float = setting(0.1, "share of activations set to zero in training", at_least=0, below=1)
    norm: Literal["before", "after"] = setting("before", "where each sublayer is normalised (the paper: after)")
    tie_weights: bool = setting(True, "share the embedding with the pre-softmax matrix")
    positions: Literal["sinusoidal", "learned"] = setting("sinusoidal", "position encoding")
    activation: Literal["relu", "gelu"] = setting("relu", "non-linearity of the feed-forward layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.d_model % self.num_heads:
            raise ValueError(f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})")


@dataclass(frozen=True, kw_only=True)
class DefectsConfig(Section):
    """What is wrong with the seed run on purpose; each field is the id of a fault, False is repaired."""

    softmax_before_cross_entropy: bool = setting(False, "the model returns probabilities")
    targets_not_shifted: bool = setting(False, "the decoder reads the very tokens that it must predict")
    future_token_leak: bool = setting(False, "encoder and cross-attention see later tokens of the window")
    norm_over_the_wrong_axis: bool = setting(False, "normalisation runs over the time axis")
    embedding_scale: bool = setting(False, "N(0, 1) embedding, multiplied by sqrt(d_model)")
    positions_added_twice: bool = setting(False, "x + dropout(x + positions)")
    no_final_norm: bool = setting(False, "a pre-norm stack without a last normalisation")
    no_output_projection: bool = setting(False, "attention heads are joined without a matrix after them")
    untied_head: bool = setting(False, "the pre-softmax matrix is its own")
    per_position_affine: bool = setting(False, "one scale and shift per position of the context")
    parameters_not_registered: bool = setting(False, "positions are a plain tensor, not a buffer")
    history_keeps_the_graph: bool = setting(False, "losses are collected as tensors, with their graphs")
    generation_differs_from_training: bool = setting(False, "sampling calls the model otherwise than training")

    def present(self) -> tuple[str, ...]:
        """Names of the defects that are switched on, in the order of the fields."""
        return tuple(each.name for each in fields(self) if getattr(self, each.name))

    @classmethod
    def all(cls) -> "DefectsConfig":
        """Every defect switched on: the seed run as it was found."""
        return cls(**{each.name: True for each in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class OptimConfig(Section):
    """AdamW and what goes with it."""

    lr: float = setting(1e-3, "learning rate at the peak; 'noam': multiplier of the paper's formula", above=0)
    schedule: Literal["noam", "cosine", "constant"] = setting("cosine", "how the rate moves after the warm-up")
    warmup_steps: int = setting(100, "linear warm-up", unit="optimizer steps", at_least=0)
    betas: tuple[float, float] = setting((0.9, 0.95), "decay of the running mean and square of gradients")
    eps: float = setting(1e-8, "added to the root in Adam's denominator", above=0)
    weight_decay: float = setting(0.01, "decoupled decay of every parameter", at_least=0)
    clip_norm: float | None = setting(1.0, "longest gradient over all parameters; None: no clipping", above=0)
    label_smoothing: float = setting(0.0, "probability spread over the vocabulary", at_least=0, below=1)
    accumulate: int = setting(1, "parts that a batch is cut into to save memory", unit="parts", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must both be at least 0 and below 1")
        if self.schedule == "noam" and self.warmup_steps < 1:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be at least 1 for the 'noam' schedule")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """How long a run lasts, and what it looks at on the way."""

    steps: int | None = setting(1000, "length of the run; None: epochs say", unit="optimizer steps", at_least=1)
    epochs: int | None = setting(None, "length of the run; None: steps say", unit="passes", at_least=1)
    log_every: int = setting(10, "distance of the training metrics", unit="optimizer steps", at_least=1)
    eval_every: int = setting(250, "distance of the evaluations", unit="optimizer steps", at_least=1)
    eval_batches: int | None = setting(None, "most held-out batches to look at; None: all", at_least=1)
    patience: int | None = setting(
        None,
        "stop after this many evaluations without a better one; None: never",
        unit="evaluations",
        at_least=1,
    )
    checkpoint_every: int | None = setting(
        None, "distance of the checkpoints; None: only the last step", unit="optimizer steps", at_least=1
    )
    precision: Literal["fp32", "bf16"] = setting("fp32", "'bf16': autocast, on a CUDA device only")
    compile: bool = setting(False, "run the model through torch.compile")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "'auto': CUDA where there is a device")
    sample_tokens: int = setting(60, "length of the text sample at the end; 0: none", unit="tokens", at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.steps is None) == (self.epochs is None):
            raise ValueError(f"steps ({self.steps}) and epochs ({self.epochs}): one must be a number, the other None")


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Section):
    """Where numbers go besides the record on disk."""

    mode: Literal["auto", "online", "offline", "disabled"] = setting(
        "auto", "Weights & Biases; 'auto': WANDB_MODE, else online with a login, else offline"
    )
    project: str = setting("unplateau", "project that runs are filed under")
    group: str | None = setting(None, "runs that belong together; None: no group")
    job_type: str = setting("train", "role of the run within its group")
    tags: tuple[str, ...] = setting((), "labels to filter by")
    notes: str | None = setting(None, "a remark for people; None: none")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Section):
    """Everything that decides a run; two equal trees give the same numbers on the same machine."""

    name: str = setting("run", "name of the run and of its folder")
    seed: int = setting(0, "decides weights, order of the data and dropout", at_least=0)
    corpus: CorpusConfig = CorpusConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    model: ModelSection = ModelSection()
    defects: DefectsConfig = DefectsConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    track: TrackConfig = TrackConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        _refuse_unusable_text(self)
        _refuse_settings_that_the_kind_ignores(self)
        if self.data.batch_size % self.optim.accumulate:
            raise ValueError(
                f"batch_size ({self.data.batch_size}) must be a multiple of accumulate ({self.optim.accumulate})"
            )


def override(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """A copy of `config` with some settings changed; all changes apply at once, then everything is checked.

    Args:
        config: stays as it is.
        changes: dotted names to values; a value given as text (from a command line) is parsed to the type of
            the field: "none" for None, "true" and "false", commas between the members of a tuple.
    Raises:
        ValueError: a name that does not exist (with the nearest one that does), a value that does not fit.

    >>> override(RunConfig(), {"optim.lr": "1e-2", "train.patience": 3}).optim.lr
    0.01
    """
    tree = to_dict(config)
    for name, value in changes.items():
        put(RunConfig, tree, name, value)
    return from_dict(tree)


def to_dict(config: RunConfig) -> dict[str, Any]:
    """The tree as nested dictionaries of plain values, ready for JSON."""
    return asdict(config)


def from_dict(tree: Mapping[str, Any]) -> RunConfig:
    """The tree back from `to_dict`, or from its JSON; a setting that is left out takes its default."""
    return section_from(RunConfig, tree)


def settings() -> list[Setting]:
    """Every setting of a run, in the order of the tree: what help texts and tables are made from."""
    return settings_of(RunConfig)


def differences(one: RunConfig, other: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The settings in which two runs differ: dotted name -> (value in `one`, value in `other`).

    >>> differences(RunConfig(seed=2), RunConfig(seed=3))
    {'seed': (2, 3)}
    """
    values = {each.name: (value_at(one, each.name), value_at(other, each.name)) for each in settings()}
    return {name: (mine, theirs) for name, (mine, theirs) in values.items() if mine != theirs}


def value_at(config: RunConfig, name: str) -> Any:
    """The value of the setting with this dotted name.

    >>> value_at(RunConfig(), "optim.lr")
    0.001
    """
    return functools.reduce(getattr, name.split("."), config)


def _refuse_unusable_text(config: RunConfig) -> None:
    kind, corpus = config.model.kind, config.corpus
    if kind == "seq2seq" and corpus.source is not None:
        raise ValueError(
            f"source ({corpus.source!r}) is not read by model.kind 'seq2seq'; set corpus.source to None "
            "and corpus.pairs to a .tsv file or two aligned files"
        )
    if kind != "seq2seq" and corpus.pairs is not None:
        raise ValueError(f"pairs are not read by model.kind {kind!r}; use 'seq2seq' or set corpus.pairs to None")
    if kind != "seq2seq" and corpus.source is None:
        raise ValueError(f"model.kind {kind!r} needs corpus.source: 'lanterns', 'pydoc' or a path")


STUCK_DESIGN: Mapping[str, Any] = {
    "norm": "before",
    "tie_weights": False,
    "positions": "sinusoidal",
    "activation": "relu",
}


def _refuse_settings_that_the_kind_ignores(config: RunConfig) -> None:
    """The seed run's model is one design, switched by its defects only; the other kinds have no defects."""
    model, present = config.model, config.defects.present()
    if model.kind != "stuck" and present:
        raise ValueError(
            f"defects.{present[0]} works on model.kind 'stuck' only, not on {model.kind!r}; set it to false"
        )
    for name, only in STUCK_DESIGN.items():
        value = getattr(model, name)
        if model.kind == "stuck" and value != only:
            raise ValueError(
                f"{name} ({value!r}) has no effect on model.kind 'stuck', which knows only {only!r}; "
                "its switches are in defects"
            )
