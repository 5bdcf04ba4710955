"""Byte-pair merges: learning them from counted words, and applying them to one piece of text.

Both work on one doubly linked chain of symbols, so that a merge costs the same in a short word and in the middle of
a raw text of megabytes, and nothing is ever counted twice.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise

Pair = tuple[int, int]
Progress = Callable[[int, int], None]

_GAP = -1  # stands where a merged symbol was, and between words; no token has this id
_PROGRESS_EVERY = 64  # merges


def learn_merges(
    words: Iterable[tuple[Sequence[int], int]],
    *,
    first_id: int,
    limit: int,
    min_count: int = 1,
    progress: Progress | None = None,
) -> list[Pair]:
    """The pairs to merge, most frequent first; the merge of rank r makes the token `first_id + r`.

    Each round takes the pair with the highest count and, among equals, the one with the smallest ids. A lazy heap
    offers the pair; an index from pair to places says where to merge it; only its neighbours' counts change.

    Args:
        words: each distinct word as ids, with the number of times it occurs.
        first_id: the id of the first new token; every id in `words` is below it.
        limit: how many merges to learn. Fewer come back when the pairs run out.
        min_count: pairs that occur fewer times are not merged.
        progress: is called now and then, and at the end, with (merges done, `limit`).

    Source: Sennrich et al. 2016, section 3.2. The order of ties is that of Hugging Face's `BpeTrainer`.

    By hand: in "aba aba ab" the pair (a, b) occurs three times and (b, a) twice, so ab becomes the token 2; the
    second round finds (2, a) twice.

    >>> learn_merges([([0, 1, 0], 2), ([0, 1], 1)], first_id=2, limit=2)
    [(0, 1), (2, 0)]
    """
    chain = _Chain(words)
    heap = [(-count, pair) for pair, count in chain.counts.items()]
    heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < limit:
        negative_count, pair = heappop(heap)
        count = chain.counts[pair]
        if count < min_count:
            continue
        if count != -negative_count:  # other merges took some of its places meanwhile
            heappush(heap, (-count, pair))
            continue
        for new_pair, new_count in chain.merge(pair, first_id + len(merges)):
            heappush(heap, (-new_count, new_pair))
        merges.append(pair)
        if progress and len(merges) % _PROGRESS_EVERY == 0:
            progress(len(merges), limit)
    if progress:
        progress(len(merges), limit)
    return merges


class _Chain:
    """All words in one chain of symbols, the count of each pair, and the places where it was seen.

    A place is the position of the pair's left symbol. Places are never struck out: `merge` looks whether the pair
    still stands there.
    """

    def __init__(self, words: Iterable[tuple[Sequence[int], int]]) -> None:
        self.symbols = [_GAP]
        self.weights = [0]  # how often the word occurs that this position belongs to
        for word, count in words:
            self.symbols.extend(word)
            self.symbols.append(_GAP)
            self.weights.extend([count] * (len(word) + 1))
        self.following = list(range(1, len(self.symbols) + 1))
        self.preceding = list(range(-1, len(self.symbols) - 1))
        self.counts: defaultdict[Pair, int] = defaultdict(int)
        self.places: defaultdict[Pair, list[int]] = defaultdict(list)
        for place, pair in enumerate(pairwise(self.symbols)):
            if _GAP not in pair:
                self.counts[pair] += self.weights[place]
                self.places[pair].append(place)

    def merge(self, pair: Pair, token: int) -> list[tuple[Pair, int]]:
        """Put `token` wherever `pair` stands, from left to right; gives the pairs that this made, with counts."""
        symbols, following, preceding = self.symbols, self.following, self.preceding
        weights, counts, places = self.weights, self.counts, self.places
        first, second = pair
        made = set()
        for place in places.pop(pair):
            other = following[place]
            if symbols[place] != first or symbols[other] != second:
                continue
            before, after = preceding[place], following[other]
            left, right = symbols[before], symbols[after]
            weight = weights[place]
            symbols[place], symbols[other] = token, _GAP
            following[place], preceding[after] = after, place
            if left != _GAP:
                counts[left, first] -= weight
                new = (left, token)
                counts[new] += weight
                places[new].append(before)
                made.add(new)
            if right != _GAP:
                counts[second, right] -= weight
                new = (token, right)
                counts[new] += weight
                places[new].append(place)
                made.add(new)
        del counts[pair]
        return [(new, counts[new]) for new in made if counts[new] > 0]


def apply_merges(symbols: Sequence[int], ranks: Mapping[Pair, int], products: Sequence[int]) -> list[int]:
    """The symbols after all merges: always the lowest rank next and, within a rank, from left to right.

    Takes O(n log n) steps for n symbols, so that a raw text without a split is no worse than words.

    Args:
        symbols: the ids of single bytes or characters.
        ranks: the rank of each pair that merges.
        products: the token that the merge of each rank makes.

    >>> apply_merges([0, 1, 0, 1, 0], {(0, 1): 0, (2, 0): 1}, [2, 3])
    [2, 3]
    """
    size = len(symbols)
    chain = [
        *symbols,
        _GAP,
    ]  # the gap is what follows the last symbol, and what precedes the first: chain[-1]
    following = list(range(1, size + 1))
    preceding = list(range(-1, size))
    waiting = [ranks[pair] * size + place for place, pair in enumerate(pairwise(symbols)) if pair in ranks]
    heapify(waiting)
    while waiting:
        rank, place = divmod(heappop(waiting), size)
        other = following[place]
        if ranks.get((chain[place], chain[other])) != rank:
            continue
        after = following[other]
        chain[place], chain[other] = products[rank], _GAP
        following[place], preceding[after] = after, place
        for start, end in ((preceding[place], place), (place, after)):
            new_rank = ranks.get((chain[start], chain[end]))
            if new_rank is not None:
                heappush(waiting, new_rank * size + start)
    return [symbol for symbol in chain if symbol != _GAP]
