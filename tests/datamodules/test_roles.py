import numpy as np

from datamodules import roles
from datamodules.rows import Rows


def rows_of(texts: list[str]) -> Rows:
    return Rows(texts, None, np.arange(len(texts)) % 2, np.arange(len(texts)))


def test_every_row_has_one_role_and_the_shares_are_about_right() -> None:
    rows = rows_of([f"text number {i}" for i in range(4000)])
    parts = roles.cut(rows, {"calibration": 0.2, "validation": 0.1})
    ids = [i for part in parts.values() for i in part.sample_id.tolist()]
    assert sorted(ids) == list(range(4000))
    assert abs(len(parts["calibration"]) - 800) < 5 * (4000 * 0.2 * 0.8) ** 0.5
    assert abs(len(parts["validation"]) - 400) < 5 * (4000 * 0.1 * 0.9) ** 0.5
    assert all(np.all(np.diff(part.sample_id) > 0) for part in parts.values())


def test_duplicates_stay_together_and_order_and_labels_do_not_matter() -> None:
    texts = [f"some  Words {i}" for i in range(300)] + [f"SOME words {i} " for i in range(300)]
    parts = roles.cut(rows_of(texts), {"calibration": 0.3})
    chosen = set(parts["calibration"].sample_id.tolist())
    assert {i for i in chosen if i < 300} == {i - 300 for i in chosen if i >= 300}
    shuffled = np.random.default_rng(0).permutation(600)
    again = roles.cut(Rows([texts[i] for i in shuffled], None, np.zeros(600), np.arange(600)), {"calibration": 0.3})
    assert {int(shuffled[i]) for i in again["calibration"].sample_id} == chosen


def test_the_two_texts_of_a_pair_do_not_run_together() -> None:
    pairs = Rows(["a b", "a"], ["c", "b c"], np.zeros(2), np.arange(2))
    assert len(set(roles.positions(pairs).tolist())) == 2


def test_calibration_does_not_move_when_validation_does() -> None:
    rows = rows_of([str(i) for i in range(500)])
    first = roles.cut(rows, {"calibration": 0.2, "validation": 0.1})
    second = roles.cut(rows, {"calibration": 0.2, "validation": 0.3})
    assert first["calibration"].sample_id.tolist() == second["calibration"].sample_id.tolist()


def test_a_larger_sample_holds_the_smaller_one() -> None:
    rows = rows_of([str(i) for i in range(100)])
    small, large = (set(roles.sample(rows, count).sample_id.tolist()) for count in (10, 40))
    assert len(small) == 10 and len(large) == 40 and small < large
    assert roles.sample(rows, None) is rows and roles.sample(rows, 100) is rows


def test_a_sample_holds_whole_groups_and_blocks() -> None:
    group = np.array([f"q{i // 3}" for i in range(120)])
    block = np.array([f"p{i // 12}" for i in range(120)])
    texts = [str(i) for i in range(120)]
    for rows, size in (
        (Rows(texts, None, np.zeros(120), np.arange(120), group), 3),
        (Rows(texts, None, np.zeros(120), np.arange(120), group, block=block), 12),
    ):
        previous: set[int] = set()
        for count in (12, 20, 40, 100):
            ids = set(roles.sample(rows, count).sample_id.tolist())
            assert count - size < len(ids) <= count and len(ids) % size == 0
            assert all(i - i % size + k in ids for i in ids for k in range(size)) and previous <= ids
            previous = ids
    alone = roles.sample(Rows(texts, None, np.zeros(120), np.arange(120), np.full(120, "one")), 10)
    assert len(alone) == 10  # a group that is too large is cut


def test_a_block_stays_in_one_role() -> None:
    group, block = (np.array([f"{i // size}" for i in range(600)]) for size in (3, 30))
    rows = Rows([str(i) for i in range(600)], None, np.zeros(600), np.arange(600), group, block=block)
    parts = roles.cut(rows, {"calibration": 0.3, "validation": 0.2})
    where = [{int(i) // 30 for i in part.sample_id} for part in parts.values()]
    assert sum(map(len, where)) == 20 and all(where)


def test_default_fractions_grow_in_small_sets() -> None:
    assert roles.default_fractions(635) == {"calibration": 0.2, "validation": 0.1}
    assert roles.default_fractions(3668) == {"calibration": 0.17, "validation": 0.09}
    assert roles.default_fractions(392_702) == {"calibration": 0.05, "validation": 0.05}
