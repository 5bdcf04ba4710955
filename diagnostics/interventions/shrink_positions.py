"""Make positions as large as the token vectors that they are added to, or a fixed number of times as large."""

from diagnostics.bench import open_bench
from diagnostics.intervention import Intervention, surrounded
from diagnostics.probes.position_sizes import PositionAdds, position_sizes
from diagnostics.subject import Subject


def positions_times(subject: Subject, ratio: float) -> Subject:
    """The subject whose positions have ``ratio`` times the size of a fresh model's token vectors.

    The factor is one number, found here: a factor found on each batch would let its tokens see each other.

    Raises:
        ValueError: nothing is added to token vectors.
    """
    with open_bench(subject, 0) as bench:
        sums = position_sizes(bench).sums
    if not sums or not all(tokens and positions for tokens, positions in sums):
        raise ValueError(f"{subject.name} adds no positions to its token vectors; there is nothing to scale")
    tokens, positions = max(sums, key=lambda pair: pair[1] / pair[0])
    factor = ratio * tokens / positions
    return surrounded(subject, lambda model, batch: PositionAdds(lambda vectors, added: added * factor))


SHRINK_POSITIONS = Intervention(
    name="shrink-positions",
    does="make positions as large as a fresh model's token vectors",
    apply=lambda subject: positions_times(subject, 1.0),
)
