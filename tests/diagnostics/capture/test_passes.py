"""The recorded batches come back as the passes that the script made over its data."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD
from torch.utils.data import DataLoader, TensorDataset

from diagnostics.bench import EPOCH
from diagnostics.capture.captured import captured
from diagnostics.capture.passes import alike, in_orders_of_the_seed, is_always_the_same, repeated, repeats
from diagnostics.capture.tape import RecordedBatch
from diagnostics.subject import Subject
from tests.diagnostics.capture.training import ROWS, network, points, watched

BATCHES = 3
COUNT = BATCHES * ROWS


def loader(shuffle: bool = False, count: int = COUNT) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches of points."""
    return DataLoader(TensorDataset(*points(count)), batch_size=ROWS, shuffle=shuffle)


class Script:
    """A model that trains on batches given to it."""

    def __init__(self) -> None:
        self.model = network()
        self.optimizer = SGD(self.model.parameters(), 0.1)
        self.inputs: list[Tensor] = []

    def train(self, batch: Sequence[Tensor]) -> None:
        self.inputs.append(batch[0])
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(batch[0]), batch[1]).backward()
        self.optimizer.step()

    def epoch(self, batches: Iterable[Sequence[Tensor]]) -> None:
        for batch in batches:
            self.train(batch)

    @torch.no_grad()
    def validate(self, batches: Iterable[Sequence[Tensor]]) -> float:
        self.model.eval()
        total = sum(F.cross_entropy(self.model(inputs), targets).item() for inputs, targets in batches)
        self.model.train()
        return total


def seen(run: Callable[[Script], object]) -> tuple[Subject, list[Tensor]]:
    """The subject of a script, and the inputs that it trained on."""
    script = Script()
    with watched() as recording:
        run(script)
    return captured(recording).subject, script.inputs


def inputs_of(subject: Subject, seed: int) -> list[Tensor]:
    """What a pass of the subject trains on."""
    return [next(each for each in batch.values() if each.is_floating_point()) for batch in subject.batches(seed)]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def same_in_some_order(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return sorted(float(each.sum()) for each in one) == sorted(float(each.sum()) for each in other)


def test_shuffled_passes_come_back_one_after_the_other() -> None:
    data = loader(shuffle=True)
    subject, inputs = seen(lambda script: [script.epoch(data) for _ in range(3)])
    assert subject.whole_data
    passes = [inputs[i : i + BATCHES] for i in range(0, len(inputs), BATCHES)]
    assert all(same(inputs_of(subject, EPOCH * i), passes[i % 3]) for i in range(5))
    assert same(inputs_of(subject, 1), passes[1])


def test_passes_in_the_same_order_come_back_in_it() -> None:
    data = loader()
    subject, inputs = seen(lambda script: [script.epoch(data) for _ in range(3)])
    assert subject.whole_data
    assert all(same(inputs_of(subject, seed), inputs[:BATCHES]) for seed in (0, 1, EPOCH, 2 * EPOCH))


def test_a_partial_pass_at_the_end_is_left_out() -> None:
    data = loader(shuffle=True)

    def run(script: Script) -> None:
        script.epoch(data)
        script.train(next(iter(data)))

    subject, inputs = seen(run)
    assert subject.whole_data
    assert same(inputs_of(subject, 0), inputs[:BATCHES])
    assert same_in_some_order(inputs_of(subject, 1), inputs[:BATCHES])


def test_a_single_partial_pass_is_not_the_whole_data() -> None:
    def run(script: Script) -> None:
        for _, batch in zip(range(BATCHES - 1), loader(), strict=False):
            script.train(batch)

    subject, inputs = seen(run)
    assert not subject.whole_data
    assert same(inputs_of(subject, 0), inputs)


def test_the_first_batch_of_a_new_pass_at_each_step_is_no_pass() -> None:
    data = loader(shuffle=True)
    subject, inputs = seen(lambda script: [script.train(next(iter(data))) for _ in range(5)])
    assert not subject.whole_data
    assert same(inputs_of(subject, 0), inputs)


def test_a_validation_in_the_middle_of_a_pass_does_not_end_it() -> None:
    data, other = loader(), loader(count=2 * ROWS)

    def run(script: Script) -> None:
        for _ in range(2):
            for batch in data:
                script.train(batch)
                script.validate(other)

    subject, inputs = seen(run)
    assert subject.whole_data
    assert same(inputs_of(subject, 0), inputs[:BATCHES])


def test_validation_is_held_out_only_from_another_data_set() -> None:
    data, other = loader(), loader(count=2 * ROWS)

    def run(validation: DataLoader[tuple[Tensor, ...]]) -> Callable[[Script], None]:
        def epochs(script: Script) -> None:
            for _ in range(2):
                script.epoch(data)
                script.validate(validation)

        return epochs

    subject, _ = seen(run(other))
    assert subject.heldout is not None
    assert len(list(subject.heldout(0))) == 4
    assert seen(run(data))[0].heldout is None
    assert seen(run(DataLoader(data.dataset, batch_size=5)))[0].heldout is None


def test_batches_that_come_again_in_order_without_a_loader_are_a_pass() -> None:
    data = [points(ROWS) for _ in range(BATCHES)]
    subject, inputs = seen(lambda script: [script.epoch(data) for _ in range(3)])
    assert subject.whole_data
    assert same(inputs_of(subject, 0), inputs[:BATCHES])


def test_one_batch_for_ever_is_not_the_whole_data() -> None:
    batch = points(ROWS)
    subject, inputs = seen(lambda script: [script.train(batch) for _ in range(5)])
    assert not subject.whole_data
    assert same(inputs_of(subject, 0), inputs)


def test_batches_that_never_come_again_are_not_the_whole_data() -> None:
    subject, inputs = seen(lambda script: [script.train(points(ROWS)) for _ in range(5)])
    assert not subject.whole_data
    assert same(inputs_of(subject, 0), inputs)
    assert same_in_some_order(inputs_of(subject, 3), inputs)


def numbered(*numbers: int) -> list[RecordedBatch]:
    return [RecordedBatch(tokens=torch.full((2, 3), number)) for number in numbers]


def numbers_of(batches: Iterable[RecordedBatch]) -> list[int]:
    return [int(batch["tokens"][0, 0]) for batch in batches]


def test_a_seed_has_an_order_of_its_own_with_every_batch_in_it() -> None:
    batches = in_orders_of_the_seed(numbered(*range(11)))
    orders = [numbers_of(batches(seed)) for seed in range(3)]
    assert orders[0] == list(range(11))
    assert all(sorted(order) == orders[0] for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert numbers_of(batches(1)) == orders[1]


def test_a_period_counts_once_it_was_seen_twice() -> None:
    assert [numbers_of(each) for each in repeated(numbered(1, 2, 3, 1, 2, 3, 1))] == [[1, 2, 3]]
    assert repeated(numbered(1, 2, 3, 1, 2)) == []
    assert repeated(numbered(1, 2, 3, 1, 3, 2)) == []
    assert repeated(numbered(1, 1, 1, 1)) == []
    assert repeated(numbered(1, 2, 3)) == []
    assert repeated([]) == []


def test_a_pass_repeats_itself_as_far_as_it_was_seen() -> None:
    assert repeats(numbered(1, 2, 1), numbered(1, 2))
    assert not repeats(numbered(1, 2, 2), numbered(1, 2))
    assert not repeats(numbered(1, 2), numbered(1, 2))


def test_batches_are_alike_where_names_and_numbers_are() -> None:
    one = RecordedBatch(tokens=torch.arange(5))
    assert alike(one, RecordedBatch(tokens=torch.arange(5)))
    assert not alike(one, RecordedBatch(tokens=torch.arange(7)))
    assert not alike(one, RecordedBatch(words=torch.arange(5)))


def test_one_batch_for_ever_is_seen_and_two_are_not() -> None:
    first, second = RecordedBatch(x=torch.arange(3)), RecordedBatch(x=torch.arange(3) + 1)
    assert is_always_the_same([first, RecordedBatch(x=torch.arange(3)), first])
    assert not is_always_the_same([first, second])
    assert not is_always_the_same([first])
