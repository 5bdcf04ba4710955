"""Which edited tokens move which logits, on cases that can be worked out by hand."""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diagnostics.probe import read
from diagnostics.probes.token_influence import STREAM, TOKEN_INFLUENCE, TokenInfluence, spread
from diagnostics.subject import Subject
from tests import subjects


class Looks(nn.Module):
    """The logits of a position are the summed vectors of the positions at these distances from it."""

    def __init__(self, *distances: int) -> None:
        super().__init__()
        self.distances = distances
        self.vectors = nn.Embedding(subjects.VOCAB, subjects.VOCAB)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        vectors = self.vectors(tokens)
        time = tokens.shape[1]
        padded = nn.functional.pad(vectors, (0, 0, time, time))
        return torch.stack([padded[:, time + d : 2 * time + d] for d in self.distances]).sum(0)


def looking(*distances: int) -> Subject:
    """A next-token subject whose model looks at these distances."""
    return subjects.language_model("looks", lambda: Looks(*distances), lr=1e-3)


def influence(subject: Subject, seed: int = 0) -> TokenInfluence:
    """The measurement, which must exist."""
    reading = read(TOKEN_INFLUENCE, subject, seed)
    assert reading.reason is None
    return reading.measurement


def test_a_model_that_reads_its_own_position_sees_the_diagonal() -> None:
    source, stream = influence(looking(0)).sources
    assert (source.source, source.shift) == ("tokens", 1)
    assert source.sees == tuple(tuple(i == j for j in range(11)) for i in range(11))
    assert (stream.source, stream.shift, len(stream.sees)) == (STREAM, 1, 12)
    assert source.plain.own == source.plain.later == source.plain.reach == 0


def test_a_model_that_looks_three_ahead_sees_its_target_plus_two() -> None:
    measured = influence(looking(0, 3))
    source = measured.sources[0]
    assert source.sees == tuple(tuple(j in (i, i - 3) for j in range(11)) for i in range(11))
    assert source.plain.reach == 2
    assert source.plain.own == 0
    assert source.plain.later > 0.1
    assert source.masked == source.plain, "no attention is involved"
    assert measured.honest == tuple(j > 7 for j in range(11))


def test_a_model_that_looks_one_ahead_sees_its_own_target_only() -> None:
    source = influence(looking(0, 1)).sources[0]
    assert source.plain.own > 0.1
    assert (source.plain.later, source.plain.reach) == (0, 0)


def test_an_argument_that_holds_the_targets_has_shift_zero() -> None:
    measured = influence(subjects.encoder_decoder())
    assert {source.source: source.shift for source in measured.sources} == {"x": 1, "y": 0, STREAM: 1}
    assert all(measured.honest)


def test_only_the_last_position_is_honest_without_masks() -> None:
    assert influence(subjects.encoder_decoder(future_token_leak=True)).honest == (False,) * 10 + (True,)


def test_a_norm_over_positions_is_set_aside() -> None:
    measured = influence(subjects.encoder_decoder(norm_over_the_wrong_axis=True))
    assert len(measured.norms) == 12
    assert all(source.plain.later > 0.1 for source in measured.sources)
    assert all(source.norms_aside.later <= measured.rounding for source in measured.sources)


def test_a_saturated_softmax_at_the_end_hides_nothing() -> None:
    class Saturated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.looks = Looks(0, 3)

        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            return (2**14 * self.looks(tokens)).softmax(-1)

    source = influence(subjects.language_model("saturated", Saturated, lr=1e-3)).sources[0]
    assert source.plain == influence(looking(0, 3)).sources[0].plain


def test_an_argument_that_is_no_copy_of_the_targets_is_skipped() -> None:
    class Sourced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.looks = Looks(0)

        def forward(
            self, source: Int[Tensor, "batch source"], tokens: Int[Tensor, "batch time"]
        ) -> Float[Tensor, "batch time vocab"]:
            return self.looks(tokens) + self.looks(source).sum(1, keepdim=True)

    subject = subjects.language_model("sourced", Sourced, lr=1e-3)
    assert subject.token_view is not None

    def logits(model: nn.Module, tokens: Int[Tensor, "batch stream"]) -> Float[Tensor, "batch time vocab"]:
        return model((7 * tokens + 5).flip(1) % subjects.VOCAB, tokens[:, :-1])

    measured = influence(replace(subject, token_view=replace(subject.token_view, logits=logits)))
    assert measured.skipped == ("source",)
    assert [source.source for source in measured.sources] == ["tokens", STREAM]


def test_rows_that_move_each_other_are_edited_one_by_one() -> None:
    class Coupled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.looks = Looks(0)

        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            logits = self.looks(tokens)
            return logits - logits.mean(0)

    source = influence(subjects.language_model("coupled", Coupled, lr=1e-3)).sources[0]
    assert source.sees == tuple(tuple(i == j for j in range(11)) for i in range(11))


def test_the_same_seed_measures_the_same_and_leaves_the_model_alone() -> None:
    subject = subjects.torch_encoder()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    assert influence(subject, seed=3) == influence(subject, seed=3)
    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert "forward" not in vars(subject.model)


def test_long_windows_are_edited_at_evenly_spaced_positions() -> None:
    assert spread(11, 16) == list(range(11))
    assert spread(101, 5) == [0, 25, 50, 75, 100]


def test_logits_that_are_not_finite_are_reported_as_such() -> None:
    class Broken(Looks):
        def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
            return super().forward(tokens) / 0

    reason = read(TOKEN_INFLUENCE, subjects.language_model("broken", lambda: Broken(0), lr=1e-3), 0).reason
    assert reason is not None
    assert "the logits hold NaN or infinity; find the first module that gives them" in reason
