"""From a model, a batch and a loss function to a subject: what is understood, and what is said of the rest."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from diagnostics.adapt import check_scope, passes_over, subject_from
from diagnostics.leaves import cloned, leaves
from diagnostics.subject import Subject
from tests.subjects import VOCAB, GruLM, TorchEncoderLM, next_token_loss

TOKENS = torch.randint(1, VOCAB, (7, 12), generator=torch.Generator().manual_seed(0))
SOURCE = torch.randint(1, VOCAB, (7, 5), generator=torch.Generator().manual_seed(1))
POINTS = torch.randn(11, 5, generator=torch.Generator().manual_seed(2))
KINDS = torch.randint(3, (11,), generator=torch.Generator().manual_seed(3))
CROSS_ENTROPY = nn.CrossEntropyLoss()
X, Y = TOKENS[:, :-1], TOKENS[:, 1:]


class WithLoss(nn.Module):
    """Returns (logits, loss) where it is given targets; otherwise only the last position's logits."""

    def __init__(self) -> None:
        super().__init__()
        self.lm = GruLM()

    def forward(
        self, idx: Int[Tensor, "batch time"], targets: Int[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch any vocab"], Float[Tensor, ""] | None]:
        logits = self.lm(idx)
        if targets is None:
            return logits[:, [-1]], None
        return logits, F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1))


class Translator(nn.Module):
    """torch's nn.Transformer, time-first unless told otherwise."""

    def __init__(self, *, batch_first: bool = False) -> None:
        super().__init__()
        self.embedding, self.head, self.axis = nn.Embedding(VOCAB, 16), nn.Linear(16, VOCAB), int(batch_first)
        with warnings.catch_warnings(action="ignore"):  # it would be faster batch-first
            self.stack = nn.Transformer(16, 2, 1, 1, 29, batch_first=batch_first)

    def forward(self, src: Int[Tensor, "a b"], trg: Int[Tensor, "c d"]) -> Float[Tensor, "c d vocab"]:
        time = trg.shape[self.axis]
        later = torch.triu(torch.ones(time, time, dtype=torch.bool), 1)
        return self.head(self.stack(self.embedding(src), self.embedding(trg), tgt_mask=later))


class Fields:
    """A batch with attributes, as torchtext gives them."""

    def __init__(self, **fields: Tensor) -> None:
        self.__dict__.update(fields)


def hugging(name: str) -> nn.Module:
    """A tiny model of Hugging Face from its config."""
    import transformers as hf

    small = {"vocab_size": VOCAB, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2}
    bert = {**small, "intermediate_size": 29, "max_position_embeddings": 16}
    if name == "gpt2":
        sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
        return hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=VOCAB, **sizes))
    if name == "t5":
        sizes = {"d_model": 16, "d_kv": 8, "d_ff": 29, "num_layers": 1, "num_heads": 2}
        return hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=VOCAB, decoder_start_token_id=0, **sizes))
    if name == "bert-masked":
        return hf.BertForMaskedLM(hf.BertConfig(**bert))
    return hf.BertForSequenceClassification(hf.BertConfig(**bert, num_labels=3))


def settled(model: nn.Module) -> nn.Module:
    """The model without dropout, so that its loss is one number."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.eval()


def flat(logits: Float[Tensor, "batch time vocab"], targets: Int[Tensor, "batch time"]) -> Float[Tensor, ""]:
    """Cross-entropy over all positions."""
    return F.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1))


def of_next(model: nn.Module) -> Float[Tensor, ""]:
    return flat(model(X), Y)


def of_translation(model: nn.Module) -> Float[Tensor, ""]:
    return flat(model(SOURCE, X), Y)


MASKED = torch.rand(7, 12, generator=torch.Generator().manual_seed(5)) < 0.3
NEXT: dict[str, tuple[Any, Any]] = {
    "tokens and torch's loss": (TOKENS, CROSS_ENTROPY),
    "tokens and nothing": (TOKENS, None),
    "tokens and a function": (TOKENS, F.cross_entropy),
    "tokens and model, batch": (TOKENS, next_token_loss),
    "tokens and output, targets": (TOKENS, lambda out, y: flat(out, y)),
    "tokens and output, tokens": (TOKENS, lambda out, tokens: flat(out[:, :-1], tokens[:, 1:])),
    "inputs and targets": ((X, Y), CROSS_ENTROPY),
    "inputs and targets, classes second": ((X, Y), lambda out, y: F.cross_entropy(out.transpose(1, 2), y)),
    "inputs and targets, with model and batch": ((X, Y), lambda model, batch: flat(model(batch[0]), batch[1])),
    "inputs and targets, with the model": ((X, Y), lambda model, x, y: flat(model(x), y)),
    "a list of inputs and targets": ([X, Y], CROSS_ENTROPY),
    "output and batch": ((X, Y), lambda out, batch: flat(out, batch[1])),
    "a dict": ({"tokens": X, "labels": Y}, CROSS_ENTROPY),
    "a dict of strange names": ({"one": X, "y": Y}, CROSS_ENTROPY),
    "a dict and a function": ({"tokens": X, "y": Y}, lambda model, batch: flat(model(batch["tokens"]), batch["y"])),
    "an object": (Fields(tokens=X, target=Y), CROSS_ENTROPY),
    "written out": (TOKENS, lambda m, t: -m(t[:, :-1]).log_softmax(-1).gather(-1, t[:, 1:, None]).mean()),
}


@pytest.mark.parametrize("form", NEXT)
def test_a_language_model_is_understood_from(form: str) -> None:
    batch, loss_fn = NEXT[form]
    model = settled(GruLM())
    subject = subject_from(model, batch, loss_fn)
    given = next(subject.batches(0))
    assert torch.allclose(subject.loss(model, given), of_next(model), rtol=1e-6)
    view = subject.token_view
    assert view is not None
    assert (view.vocab_size, subject.whole_data, subject.lacks) == (VOCAB, False, {})
    assert torch.equal(view.tokens(given), TOKENS)
    assert torch.equal(view.targets(given), Y)
    assert torch.equal(view.logits(model, given), model(X))


def test_predictions_and_loss_are_understood() -> None:
    for batch in ((X, Y), TOKENS):
        model = WithLoss().eval()
        subject = subject_from(model, batch)
        view = subject.token_view
        assert view is not None
        given = next(subject.batches(0))
        assert torch.allclose(subject.loss(model, given), of_next(model.lm))
        assert torch.equal(view.tokens(given), TOKENS)


TRANSLATION: dict[str, tuple[Any, Any, int]] = {
    "three tensors": ((SOURCE, X, Y), CROSS_ENTROPY, 0),
    "source and target": ((SOURCE, TOKENS), CROSS_ENTROPY, 0),
    "a dict": ({"src": SOURCE, "trg": TOKENS}, CROSS_ENTROPY, 0),
    "an object": (Fields(src=SOURCE, trg=TOKENS), CROSS_ENTROPY, 0),
    "three tensors, time first": ((SOURCE.T, X.T, Y.T), CROSS_ENTROPY, 1),
    "source and target, time first": ((SOURCE.T, TOKENS.T), CROSS_ENTROPY, 1),
    "a function, time first": (
        {"src": SOURCE.T, "trg": TOKENS.T},
        lambda model, b: flat(model(b["src"], b["trg"][:-1]), b["trg"][1:]),
        1,
    ),
}


@pytest.mark.parametrize("form", TRANSLATION)
def test_a_translator_is_understood_from(form: str) -> None:
    batch, loss_fn, axis = TRANSLATION[form]
    model = settled(Translator(batch_first=axis == 0))
    subject = subject_from(model, batch, loss_fn, batch_axis=axis)
    given = next(subject.batches(0))
    logits = model(SOURCE, X) if axis == 0 else model(SOURCE.T, X.T).transpose(0, 1)
    assert torch.allclose(subject.loss(model, given), flat(logits, Y), rtol=1e-5)
    view = subject.token_view
    assert view is not None
    assert torch.equal(view.tokens(given), TOKENS)
    assert torch.equal(view.targets(given), Y)
    assert torch.allclose(view.logits(model, given), logits, atol=1e-6)


def test_a_source_that_holds_the_same_tokens_stays_a_source() -> None:
    subject = subject_from(settled(Translator(batch_first=True)), (Y, X, Y), CROSS_ENTROPY)
    view = subject.token_view
    assert view is not None
    source, before, after = view.with_tokens((Y, X, Y), TOKENS.flip(0))
    assert torch.equal(source, Y)
    assert torch.equal(torch.cat((before[:, :1], after), 1), TOKENS.flip(0))


@pytest.mark.parametrize("ignored", [0, 3], ids=["no label left out", "some labels left out"])
def test_a_model_that_shifts_its_labels_inside_is_understood(ignored: int) -> None:
    labels = TOKENS.clone()
    labels[:, :ignored] = -100
    model = hugging("gpt2").eval()
    subject = subject_from(model, {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": labels})
    view, given = subject.token_view, next(subject.batches(0))
    assert view is not None
    assert view.ignored is not None
    assert torch.equal(view.tokens(given), TOKENS)
    assert torch.equal(view.targets(given), labels[:, 1:])
    assert torch.equal(view.ignored(given), labels[:, 1:] == -100)
    assert torch.allclose(F.cross_entropy(view.logits(model, given).mT, view.targets(given)), model(**given).loss)
    other = view.with_tokens(given, TOKENS.flip(1))
    assert torch.equal(other["input_ids"], TOKENS.flip(1))
    assert torch.equal(other["labels"] == -100, labels == -100)


def test_tokens_are_enough_for_an_output_with_logits() -> None:
    model = hugging("gpt2").eval()
    for loss_fn in (None, CROSS_ENTROPY):
        subject = subject_from(model, TOKENS, loss_fn)
        assert torch.allclose(subject.loss(model, TOKENS), model(TOKENS, labels=TOKENS).loss)


@pytest.mark.parametrize("source", [SOURCE, TOKENS], ids=["another source", "the same source"])
def test_a_model_that_makes_its_decoder_input_from_its_labels_is_understood(source: Tensor) -> None:
    model = hugging("t5").eval()
    subject = subject_from(model, {"input_ids": source, "labels": TOKENS})
    view, given = subject.token_view, next(subject.batches(0))
    assert view is not None
    assert torch.equal(view.tokens(given), TOKENS)
    assert torch.equal(view.with_tokens(given, TOKENS.flip(0))["input_ids"], source)


def test_targets_that_are_the_inputs_themselves_are_seen() -> None:
    subject = subject_from(GruLM(), (TOKENS, TOKENS), CROSS_ENTROPY)
    view = subject.token_view
    assert view is not None
    assert torch.equal(view.targets((TOKENS, TOKENS)), view.tokens((TOKENS, TOKENS)))


@pytest.mark.parametrize(("shift", "length"), [(2, 12), (-1, 12)])
def test_targets_shifted_by_another_amount_are_seen(shift: int, length: int) -> None:
    long = torch.randint(1, VOCAB, (7, length + abs(shift)))
    early, late = long[:, :length], long[:, abs(shift) :]
    x, y = (early, late) if shift > 0 else (late, early)
    view = subject_from(GruLM(), (x, y), CROSS_ENTROPY).token_view
    assert view is not None
    assert torch.equal(view.tokens((x, y)), long)


NO_LANGUAGE: dict[str, tuple[Callable[[], nn.Module], Any, Any, str]] = {
    "classifier": (lambda: nn.Linear(5, 3), (POINTS, KINDS), CROSS_ENTROPY, "no table of whole numbers"),
    "list": (lambda: nn.Linear(5, 3), [POINTS, KINDS], CROSS_ENTROPY, "no table of whole numbers"),
    "regression": (lambda: nn.Linear(5, 3), (POINTS, POINTS[:, :3]), F.mse_loss, "no table of whole numbers"),
    "autoencoder": (lambda: nn.Linear(5, 5), POINTS, nn.MSELoss(), "no table of whole numbers"),
    "text classifier": (
        partial(hugging, "bert"),
        {"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS), "labels": KINDS[:7]},
        None,
        "the 7 targets of its loss are not the rows of a table of tokens",
    ),
    "masked": (
        partial(hugging, "bert-masked"),
        {"input_ids": TOKENS.masked_fill(MASKED, 0), "labels": TOKENS.masked_fill(~MASKED, -100)},
        None,
        "its targets are no tokens that it reads, shifted by any amount",
    ),
}


@pytest.mark.parametrize("form", NO_LANGUAGE)
def test_what_predicts_no_next_token_has_no_token_view_and_says_why(form: str) -> None:
    make, batch, loss_fn, why = NO_LANGUAGE[form]
    subject = subject_from(make(), batch, loss_fn)
    assert subject.token_view is None
    assert why in str(subject.missing(["token_view"]))
    assert subject.loss(subject.model, next(subject.batches(0))).shape == ()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_any_precision_is_understood(dtype: torch.dtype) -> None:
    subject = subject_from(GruLM().to(dtype), TOKENS, CROSS_ENTROPY)
    assert subject.token_view is not None
    assert subject.loss(subject.model, TOKENS).dtype == dtype


def test_the_token_left_out_is_the_padding() -> None:
    padded = TOKENS.clone()
    padded[:3, -4:] = 0
    view = subject_from(GruLM(), padded, nn.CrossEntropyLoss(ignore_index=0)).token_view
    assert view is not None
    assert view.ignored is not None
    assert view.padding_id == 0
    assert torch.equal(view.ignored(padded), padded[:, 1:] == 0)


def test_rows_of_everything_else_follow_the_tokens() -> None:
    view = subject_from(settled(Translator(batch_first=True)), (SOURCE, X, Y), CROSS_ENTROPY).token_view
    assert view is not None
    more = view.with_tokens((SOURCE, X, Y), TOKENS[torch.arange(17) % 7])
    assert [len(each) for each in more] == [17, 17, 17]
    assert torch.equal(more[0][7:14], SOURCE)


class TestWhatDoesNotGoTogether:
    """One ValueError: what was tried, the shapes, the way out."""

    @pytest.mark.parametrize(
        ("batch", "loss_fn", "said"),
        [
            ((POINTS, KINDS[:, None].expand(-1, 2)), CROSS_ENTROPY, r"batch\[1\]: int64 \[11, 2\]"),
            ((POINTS, KINDS), None, "no loss_fn was given, and the model returned no loss"),
            ((POINTS, KINDS), lambda model, batch: 3.0, "the loss must be a tensor, not float"),
            ((POINTS, KINDS), nn.CrossEntropyLoss(reduction="none"), r"it is float32 \[11\]: reduce it"),
            ("text", CROSS_ENTROPY, "a str without tensors"),
        ],
        ids=["shapes", "no loss", "a float", "not reduced", "text"],
    )
    def test_is_told_in_one_line(self, batch: Any, loss_fn: Any, said: str) -> None:
        with pytest.raises(ValueError, match=said) as caught:
            subject_from(nn.Linear(5, 3), batch, loss_fn)
        assert "\n" not in str(caught.value)
        assert "lambda model, batch: ..." in str(caught.value)

    def test_a_generator_is_refused(self) -> None:
        with pytest.raises(ValueError, match="can be read only once; pass a list of batches or a DataLoader"):
            subject_from(nn.Linear(5, 3), iter([(POINTS, KINDS)]), CROSS_ENTROPY)

    def test_no_batches_are_refused(self) -> None:
        with pytest.raises(ValueError, match="the list of batches is empty"):
            subject_from(nn.Linear(5, 3), [], CROSS_ENTROPY)

    def test_a_loss_that_uses_the_original_is_refused(self) -> None:
        model = nn.Linear(5, 3)
        with pytest.raises(ValueError, match="still depends on the original"):
            subject_from(model, (POINTS, KINDS), lambda _, batch: F.cross_entropy(model(batch[0]), batch[1]))
        assert model.weight.grad is None


class TestOutOfScope:
    """Said in one clear line."""

    def refused(self, model: nn.Module, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            subject_from(model, (POINTS, KINDS), CROSS_ENTROPY)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_compiled(self) -> None:
        self.refused(torch.compile(nn.Linear(5, 3)), "pass model._orig_mod")  # type: ignore[arg-type]

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_compiled_in_place(self) -> None:
        model = nn.Linear(5, 3)
        model.compile()
        self.refused(model, "the model before compiling")

    def test_data_parallel(self) -> None:
        self.refused(nn.DataParallel(nn.Linear(5, 3)), "DataParallel is out of scope; pass model.module")

    def test_without_memory(self) -> None:
        self.refused(nn.Linear(5, 3, device="meta"), "weight is on the meta device and has no numbers")

    def test_without_shape(self) -> None:
        self.refused(nn.LazyLinear(3), "weight has no shape yet; run the model once")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_scripted(self) -> None:
        self.refused(torch.jit.script(nn.Linear(5, 3)), "pass the module that was scripted")

    def test_no_model(self) -> None:
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, not builtin"):
            check_scope(len)


def values(*things: Any) -> list[Any]:
    """The numbers in tensors and nested containers, for comparing before and after."""
    return [(path, leaf.clone()) for thing in things for path, leaf in leaves(thing)]


def same(one: list[Any], other: list[Any]) -> bool:
    return [path for path, _ in one] == [path for path, _ in other] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(one, other, strict=True)
    )


def test_the_callers_things_stay_as_they_are() -> None:
    model = TorchEncoderLM()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    next_token_loss(model, TOKENS).backward()
    optimizer.step()
    model.encoder.eval()
    state = (model.state_dict(), {n: p.grad for n, p in model.named_parameters()}, optimizer.state_dict())
    modes = [module.training for module in model.modules()]
    before, numbers, tokens = values(*state), torch.get_rng_state(), TOKENS.clone()
    subject = subject_from(model, TOKENS, next_token_loss, optimizer=optimizer)
    made = subject.optimizer(subject.build(0) if subject.build else model)
    assert isinstance(made, torch.optim.AdamW)
    assert same(values(*state), before)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(torch.get_rng_state(), numbers)
    assert torch.equal(TOKENS, tokens)


class TestBatches:
    """Lists and loaders."""

    def loader(self, **settings: Any) -> DataLoader[Any]:
        return DataLoader(TensorDataset(POINTS, KINDS), batch_size=4, **settings)

    def test_a_loader_shuffles_from_the_seed_and_nothing_else_moves(self) -> None:
        generator = torch.Generator().manual_seed(5)
        for loader in (self.loader(shuffle=True), self.loader(shuffle=True, generator=generator)):
            before, own = torch.get_rng_state(), generator.get_state()
            passes = passes_over(loader, None)
            one, again, other = ([batch[0] for batch in passes(seed)] for seed in (3, 3, 4))
            assert same(values(one), values(again))
            assert not same(values(one), values(other))
            assert torch.equal(torch.get_rng_state(), before)
            assert torch.equal(generator.get_state(), own)

    def test_a_loader_with_workers_is_read_without_them(self) -> None:
        passes = passes_over(self.loader(num_workers=2), None)
        assert same(values(list(passes(0))), values(list(self.loader())))

    def test_a_loader_gives_all_of_the_data(self) -> None:
        subject = subject_from(nn.Linear(5, 3), self.loader(), CROSS_ENTROPY)
        assert subject.whole_data
        assert len(list(subject.batches(0))) == 3

    def test_a_list_of_batches_keeps_its_order(self) -> None:
        batches = [(POINTS, KINDS), (POINTS[:4], KINDS[:4])]
        subject = subject_from(nn.Linear(5, 3), batches, CROSS_ENTROPY, heldout=(POINTS[:3], KINDS[:3]))
        assert subject.whole_data
        assert [len(batch[0]) for batch in subject.batches(5)] == [11, 4]
        assert subject.heldout is not None
        assert [len(batch[0]) for batch in subject.heldout(0)] == [3]

    def test_tensors_of_many_tokens_in_a_list_are_batches(self) -> None:
        assert subject_from(GruLM(), [TOKENS] * 5, CROSS_ENTROPY).whole_data

    def test_batches_are_copies(self) -> None:
        subject = subject_from(nn.Linear(5, 3), (POINTS, KINDS), CROSS_ENTROPY)
        next(subject.batches(0))[0].zero_()
        assert POINTS.any()

    def test_a_batch_of_any_type_is_copied_to_that_type(self) -> None:
        from collections import UserDict, namedtuple

        pair = namedtuple("pair", "x y")
        for batch in (pair(POINTS, KINDS), UserDict(x=POINTS), [POINTS, {"y": (KINDS,)}], Fields(x=POINTS, n=3)):
            twin = cloned(batch)
            assert type(twin) is type(batch)
            assert same(values(twin), values(batch))
            next(iter(leaf for _, leaf in leaves(twin))).add_(1)
            assert not same(values(twin), values(batch))


def test_a_subject_without_an_optimizer_says_so_in_its_name() -> None:
    ours = subject_from(nn.Linear(5, 3), (POINTS, KINDS), CROSS_ENTROPY)
    assert ours.name == "Linear (trained with AdamW at 0.001, as no optimizer was given)"
    theirs = subject_from(nn.Linear(5, 3), (POINTS, KINDS), CROSS_ENTROPY, optimizer=torch.optim.SGD, name="mine")
    assert theirs.name == "mine"


@pytest.mark.parametrize("takes_seed", [True, False])
def test_a_builder_may_or_may_not_take_the_seed(takes_seed: bool) -> None:
    def with_seed(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(5, 3)

    build = with_seed if takes_seed else partial(nn.Linear, 5, 3)
    before = torch.get_rng_state()
    subject = subject_from(nn.Linear(5, 3), (POINTS, KINDS), CROSS_ENTROPY, build=build)
    after = torch.get_rng_state()
    assert subject.build is not None
    one, again, other = subject.build(3), subject.build(3), subject.build(4)
    assert torch.equal(one.weight, again.weight)  # type: ignore[arg-type]
    assert not torch.equal(one.weight, other.weight)  # type: ignore[arg-type]
    assert before.shape == after.shape
    assert torch.equal(after, torch.get_rng_state())


def test_what_cannot_be_copied_has_no_builder_and_says_why() -> None:
    class Refuses(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> "Refuses":
            raise TypeError("there can be only one")

    model = Refuses(5, 3)
    before = values(model.state_dict())
    subject: Subject = subject_from(model, (POINTS, KINDS), CROSS_ENTROPY)
    assert subject.build is None
    assert "there can be only one; pass build" in str(subject.missing(["build"]))
    assert same(values(model.state_dict()), before)
