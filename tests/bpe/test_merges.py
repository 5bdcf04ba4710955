from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from bpe.merges import apply_merges, learn_merges

WORDS = st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=23), st.integers(1, 5)), max_size=7)


def replaced(word, pair, token):
    """`word` with `token` for every `pair`, from left to right."""
    result, place = [], 0
    while place < len(word):
        found = tuple(word[place : place + 2]) == pair
        result.append(token if found else word[place])
        place += 2 if found else 1
    return result


def obvious_learn(words, *, first_id, limit, min_count=1):
    """Count every pair again in every round."""
    words, merges = list(words), []
    while len(merges) < limit:
        counts = Counter()
        for word, count in words:
            for pair in pairwise(word):
                counts[pair] += count
        if not counts or max(counts.values()) < min_count:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [(replaced(word, pair, first_id + len(merges)), count) for word, count in words]
        merges.append(pair)
    return merges


def obvious_apply(word, ranks, products):
    """Look through the whole word for the lowest rank before each single merge."""
    word = list(word)
    while True:
        found = [(ranks[pair], place) for place, pair in enumerate(pairwise(word)) if pair in ranks]
        if not found:
            return word
        rank, place = min(found)
        word[place : place + 2] = [products[rank]]


@given(words=WORDS, limit=st.integers(0, 31), min_count=st.integers(1, 5))
@settings(deadline=None)
def test_learning_gives_what_counting_everything_again_gives(words, limit, min_count):
    expected = obvious_learn(words, first_id=3, limit=limit, min_count=min_count)
    assert expected == learn_merges(words, first_id=3, limit=limit, min_count=min_count)


@given(words=WORDS, word=st.lists(st.integers(0, 2), max_size=41))
@settings(deadline=None)
def test_applying_gives_what_one_merge_at_a_time_gives(words, word):
    merges = learn_merges(words, first_id=3, limit=31)
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    products = list(range(3, 3 + len(merges)))
    assert obvious_apply(word, ranks, products) == apply_merges(word, ranks, products)


@given(word=st.lists(st.integers(0, 2), max_size=41), data=st.data())
@settings(deadline=None)
def test_applying_is_right_even_when_two_pairs_make_one_token_in_any_order(word, data):
    pairs = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), unique=True, max_size=11))
    products = data.draw(st.lists(st.integers(3, 4), min_size=len(pairs), max_size=len(pairs)))
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    assert obvious_apply(word, ranks, products) == apply_merges(word, ranks, products)


def test_of_equally_frequent_pairs_the_one_with_the_smaller_ids_merges_first():
    assert learn_merges([([2, 1], 1), ([1, 2], 1), ([0, 3], 1)], first_id=5, limit=3) == [(0, 3), (1, 2), (2, 1)]


def test_a_run_of_one_symbol_merges_from_the_left():
    assert apply_merges([0, 0, 0, 0, 0], {(0, 0): 0}, [1]) == [1, 1, 0]


def test_no_merge_crosses_from_word_to_word():
    assert learn_merges([([0], 7), ([1], 7)], first_id=2, limit=5) == []


def test_progress_is_told_now_and_then_and_at_the_end():
    calls = []
    word = list(range(101))
    learn_merges([(word, 1)], first_id=101, limit=100, progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    assert calls == sorted(calls)
    assert calls[-1] == (100, 100)
