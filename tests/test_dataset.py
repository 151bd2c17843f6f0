"""The data set and its splits."""

import hashlib

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from onelayer.config import SplitConfig
from onelayer.data import Dataset, Split, split
from onelayer.data.scan import first_equals
from onelayer.errors import ConfigError, DataError


def make(n=120, K=4, d=3, parts=None, seed=0, **changes):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(K), rng.integers(0, K, max(n - K, 0))])[:n].astype(np.int64)
    pieces = {
        "rows": rng.integers(0, 256, (n, d), np.uint8),
        "labels": rng.permutation(labels),
        "class_names": tuple(f"class {k}" for k in range(K)),
        "image_shape": None,
        "name": "set",
        "parts": parts or {},
    }
    return Dataset(**pieces | changes)


def batches(n=40):
    names = ("data_batch_1", "data_batch_2", "data_batch_3", "test_batch")
    return {name: slice(n * i, n * i + n) for i, name in enumerate(names)}


def places(splits):
    return [set(part.indices.tolist()) for part in splits]


@settings(deadline=None)
@given(
    n=st.integers(3, 200),
    K=st.integers(1, 12),
    validation=st.one_of(st.none(), st.floats(0.01, 0.99), st.integers(1, 100)),
    test=st.one_of(st.none(), st.floats(0.01, 0.99), st.integers(1, 100)),
    seed=st.integers(0, 99),
)
def test_stratified_splits_are_disjoint_and_complete(n, K, validation, test, seed):
    dataset = make(n, K, seed=seed)
    config = SplitConfig(protocol="stratified", validation_size=validation, test_size=test, split_seed=seed)
    try:
        splits = split(dataset, config)
    except ConfigError as error:
        assert "leaves none of" in str(error)
        return
    train, held_out, tested = places(splits)
    assert train | held_out | tested == set(range(n))
    assert len(splits.train) + len(splits.validation) + len(splits.test) == n
    assert min(map(len, splits)) > 0
    assert len(splits.test) == (test if test and test >= 1 else max(1, round((test or 0.2) * n)))
    assert len(splits.validation) == (
        validation if validation and validation >= 1 else max(1, round((validation or 0.2) * n))
    )


@settings(deadline=None)
@given(n=st.integers(4, 60), size=st.integers(1, 150), seed=st.integers(0, 9))
def test_full_splits_are_disjoint_and_keep_the_test_rows(n, size, seed):
    dataset = make(4 * n, parts=batches(n), seed=seed)
    config = SplitConfig(protocol="full", validation_size=size, split_seed=seed)
    if size >= 3 * n:
        with pytest.raises(ConfigError, match=f"validation size {size} leaves none of {3 * n} rows"):
            split(dataset, config)
        return
    splits = split(dataset, config)
    train, validation, test = places(splits)
    assert test == set(range(3 * n, 4 * n))
    assert (len(train), len(validation)) == (3 * n - size, size)
    assert train | validation | test == set(range(4 * n))


def test_batch_splits_are_the_batches():
    splits = split(make(160, parts=batches()), SplitConfig())
    assert splits.protocol == "batch"
    assert [(s.name, s.indices[0], len(s)) for s in splits] == [
        ("train", 0, 40),
        ("validation", 40, 40),
        ("test", 120, 40),
    ]


def test_default_protocols():
    assert split(make(), SplitConfig()).protocol == "stratified"
    parts = {"train": slice(0, 90), "test": slice(90, 120)}
    assert split(make(parts=parts), SplitConfig(validation_size=9)).protocol == "full"
    parts = {"train": slice(0, 90), "validation": slice(90, 120)}
    assert split(make(parts=parts), SplitConfig()).protocol == "given"


def test_given_splits_are_the_sources_own():
    parts = {"test": slice(0, 20), "train": slice(20, 90), "validation": slice(90, 120)}
    train, validation, test = places(split(make(parts=parts), SplitConfig()))
    assert (train, validation, test) == (set(range(20, 90)), set(range(90, 120)), set(range(20)))


@settings(deadline=None)
@given(lacking=st.sampled_from(["validation", "test", "both"]), size=st.sampled_from([None, 7, 0.1]))
def test_given_draws_what_is_lacking_from_train(lacking, size):
    parts = {"train": slice(0, 60), "validation": slice(60, 90), "test": slice(90, 120)}
    names = ("validation", "test") if lacking == "both" else (lacking,)
    kept = {name: rows for name, rows in parts.items() if name not in names}
    options = {f"{name}_size": size for name in names}
    splits = split(make(parts=kept), SplitConfig(protocol="given", **options))
    found = dict(zip(("train", "validation", "test"), places(splits), strict=True))
    for name in ("validation", "test"):
        if name in kept:
            assert found[name] == set(range(120)[parts[name]])
        else:
            assert found[name] < set(range(60))
    assert set.union(*found.values()) == set(range(60)).union(*(range(120)[rows] for rows in kept.values()))
    assert sum(map(len, found.values())) == len(set.union(*found.values()))
    if lacking != "both":
        assert len(found[lacking]) == {None: 12, 7: 7, 0.1: 6}[size]


LAYOUTS = [
    [],
    ["train"],
    ["train", "test"],
    ["test", "validation", "train"],
    ["train", "validation"],
    ["validation", "test"],
    ["data_batch_1", "data_batch_2", "data_batch_3", "test_batch"],
    ["data_batch_2", "test_batch"],
]


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    sizes=st.lists(st.integers(1, 30), min_size=4, max_size=4),
    K=st.integers(1, 8),
    protocol=st.sampled_from([None, "batch", "given", "full", "stratified"]),
    held_out=st.tuples(*2 * [st.none() | st.integers(1, 30) | st.floats(0.01, 0.99)]),
    seed=st.integers(0, 99),
    refit=st.booleans(),
)
def test_any_split_is_a_partition(layout, sizes, K, protocol, held_out, seed, refit):
    stops = np.cumsum(sizes).tolist()
    parts = {name: slice(stop - size, stop) for name, size, stop in zip(layout, sizes, stops, strict=False)}
    n = stops[len(layout) - 1] if layout else sum(sizes)
    dataset = make(n, K, parts=parts, seed=seed)
    try:
        config = SplitConfig(
            protocol=protocol, validation_size=held_out[0], test_size=held_out[1], split_seed=seed, refit=refit
        )
        train, validation, test = split(dataset, config)
    except ConfigError:
        event("refused")
        return
    of_train = np.setdiff1d(train.indices, validation.indices) if refit else train.indices
    assert len(train) == len(of_train) + refit * len(validation)
    together = np.concatenate([of_train, validation.indices, test.indices])
    assert len(set(together.tolist())) == len(together), "no row is in two of them"
    used = layout
    if protocol == "batch" or (protocol is None and {"data_batch_1", "data_batch_2", "test_batch"} <= set(layout)):
        used = ["data_batch_1", "data_batch_2", "test_batch"]
    expected = set().union(*(range(n)[parts[name]] for name in used)) if layout else set(range(n))
    assert set(together.tolist()) == expected, "and none is left out"
    assert min(len(of_train), len(validation), len(test)) > 0
    if len(layout) > 1 and protocol != "stratified":
        tested = next((name for name in layout if name.startswith("test")), None)
        assert tested is None or set(test.indices.tolist()) == set(range(n)[parts[tested]]), "test rows stay test rows"


def test_few_rows_give_a_fifth_for_validation_and_many_a_thousand():
    for n, expected in ((100, 20), (10_000, 1000)):
        parts = {"train": slice(0, n), "test": slice(n, n + 9)}
        assert len(split(make(n + 9, parts=parts), SplitConfig()).validation) == expected


def test_drawn_splits_keep_the_proportions():
    dataset = make(1000, labels=np.repeat(np.arange(4), (700, 200, 90, 10)))
    for part in split(dataset, SplitConfig(validation_size=0.1, test_size=300)):
        share = np.bincount(part.labels, minlength=4) - len(part) * np.array([0.7, 0.2, 0.09, 0.01])
        assert np.abs(share).max() <= 2


@pytest.mark.parametrize(
    ("members", "size", "expected"),
    [
        ((47, 33, 20), 10, [5, 3, 2]),  # exactly 4.7, 3.3 and 2.0
        ((26, 35, 39), 10, [3, 3, 4]),  # 2.6, 3.5 and 3.9
        ((61, 25, 14), 10, [6, 3, 1]),  # 6.1, 2.5 and 1.4
        ((50, 30, 15, 5), 0.1, [5, 3, 2, 0]),  # 5, 3, 1.5 and 0.5: of equal remainders the first class's
        ((30, 1), 3, [3, 0]),  # 2.90 and 0.10
        ((34, 1, 1, 1, 1, 1, 1), 0.2, [8, 0, 0, 0, 0, 0, 0]),  # 6.8 and 0.2
        ((1, 99), 0.9, [0, 90]),  # 0.9 and 89.1, but the one row is to train
        ((2, 8), 0.9, [2, 7]),  # 1.8 and 7.2: one of the classes has to be drawn whole
        ((1, 1, 2), 3, [1, 1, 1]),
        ((1, 1, 1), 2, [1, 1, 0]),
    ],
)
def test_the_largest_remainders_round_up_and_no_class_is_drawn_whole(members, size, expected):
    n, K = sum(members), len(members)
    parts = {"train": slice(0, n), "validation": slice(n, n + 1)}
    dataset = make(n + 1, K, labels=np.repeat([*range(K), 0], [*members, 1]), parts=parts)
    test = split(dataset, SplitConfig(test_size=size)).test
    assert np.bincount(test.labels, minlength=K).tolist() == expected


def test_a_class_of_one_row_is_trained_on():
    dataset = make(51, K=11, labels=np.repeat(np.arange(11), [41, *[1] * 10]))
    for seed in range(5):
        splits = split(dataset, SplitConfig(split_seed=seed))
        assert set(splits.train.labels.tolist()) == set(range(11))
        assert (len(splits.test), len(splits.validation)) == (10, 10)


def test_a_seed_repeats_its_splits_and_another_gives_others():
    dataset = make()
    first, again, other = (split(dataset, SplitConfig(split_seed=seed)) for seed in (1, 1, 2))
    assert places(first) == places(again)
    assert places(first) != places(other)


@pytest.mark.parametrize(
    ("parts", "options", "words"),
    [
        ({}, {"protocol": "batch"}, "set has no data_batch_1; use the protocol stratified"),
        ({}, {"protocol": "full"}, "set has no training or test rows of its own; use the protocol stratified"),
        ({"test": slice(0, 120)}, {"protocol": "full"}, "use the protocol stratified"),
        (
            {"train": slice(0, 60), "validation": slice(60, 120)},
            {"protocol": "batch"},
            "set has no data_batch_1; use the protocol given",
        ),
        ({"train": slice(0, 60), "test": slice(60, 120)}, {"protocol": "batch"}, "use the protocol full"),
        ({"validation": slice(0, 60), "test": slice(60, 120)}, {"protocol": "batch"}, "use the protocol stratified"),
        (batches(30), {"protocol": "given"}, "set has no train; use the protocol batch"),
        (batches(30), {"validation_size": 9}, "validation size does not apply to the protocol batch; leave it out"),
        (
            batches(30),
            {"protocol": "full", "test_size": 9},
            "test size does not apply to the protocol full; leave it out",
        ),
        ({}, {"protocol": "given"}, "set has no train; use the protocol stratified"),
        (
            {"train": slice(0, 60), "validation": slice(60, 120)},
            {"validation_size": 9},
            "validation size does not apply to the protocol given; leave it out",
        ),
        ({}, {"test_size": 120}, "test size 120 leaves none of 120 rows to train on; ask for fewer"),
        ({}, {"validation_size": 96}, "validation size 96 leaves none of 96 rows to train on; ask for fewer"),
    ],
)
def test_protocols_that_do_not_fit(parts, options, words):
    with pytest.raises(ConfigError, match=words):
        split(make(parts=parts), SplitConfig(**options))


def test_duplicates_are_counted_as_naively():
    dataset = make(90, d=1, rows=np.random.default_rng(0).integers(0, 40, (90, 1), np.uint8))
    splits = split(dataset, SplitConfig())
    naive = {
        f"{a.name} in {b.name}": sum(
            any((row == other).all() for other in b.rows(slice(None))) for row in a.rows(slice(None))
        )
        for a, b in ((splits.validation, splits.train), (splits.test, splits.train), (splits.test, splits.validation))
    }
    assert splits.duplicates == naive
    assert all(0 < count < 18 for count in naive.values())


def test_a_refit_does_not_count_its_own_rows_as_duplicates():
    rows = np.arange(90, dtype=np.float32)[:, None]
    splits = split(make(90, d=1, rows=rows), SplitConfig(refit=True))
    assert splits.duplicates == {"validation in train": 0, "test in train": 0, "test in validation": 0}
    a, b = splits.validation.indices[:2]
    (c,) = np.setdiff1d(splits.train.indices, splits.validation.indices)[:1]
    rows[splits.test.indices[0]] = rows[c] = rows[a]
    rows[b] = rows[splits.test.indices[1]]
    splits = split(make(90, d=1, rows=rows), SplitConfig(refit=True))
    assert splits.duplicates == {"validation in train": 1, "test in train": 2, "test in validation": 2}


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("digits", [1, 3, 1000])
def test_equal_rows_by_hashes_that_collide(digits, dtype):
    rows = np.random.default_rng(0).integers(0, 3, (200, 3)).astype(dtype)
    hashes = rows.sum(axis=1).astype(np.int64) % digits
    expected = [next(i for i, other in enumerate(rows) if (other == row).all()) for row in rows]
    assert len(set(expected)) == 27
    assert first_equals(rows, hashes).tolist() == expected


def test_zeros_of_two_signs_are_not_equal_bit_for_bit():
    rows = np.array([[0.0], [-0.0], [1.0], [-0.0], [0.0], [5.0]], np.float32)
    dataset = make(6, d=1, rows=rows)
    assert first_equals(dataset.rows, dataset.scan().hashes).tolist() == [0, 1, 2, 1, 0, 5]


def test_rows_are_looked_through_once(monkeypatch):
    monkeypatch.setattr("onelayer.data.scan.BLOCK_BYTES", 100)
    seen = []
    dataset = make(120, parts=batches(30))
    whole = hashlib.sha256(b"uint8 3")
    for part in batches(30).values():
        whole.update(dataset.rows[part].tobytes() + dataset.labels[part].tobytes())
    assert dataset.scan(lambda done, total: seen.append((done, total))).fingerprint == whole.hexdigest()
    assert seen[0] == (30, 120)  # of parts that are shorter than a block
    assert seen[-1] == (120, 120)
    count = len(seen)
    dataset.scan(lambda done, total: seen.append((done, total)))
    assert split(dataset, SplitConfig()).duplicates
    assert dataset.fingerprint == whole.hexdigest()
    assert len(seen) == count


def test_rows_of_a_split_by_any_slice():
    dataset = make(20, 3, 2)
    whole = Split("all", dataset, np.arange(5, 20))
    for places in (slice(0, 10, 2), slice(None, None, -1), slice(3, 7), slice(-4, None), np.array([4, 1])):
        assert np.array_equal(whole.rows(places), dataset.rows[5:20][places])


def test_the_callers_arrays_stay_writable():
    rows, labels = np.zeros((4, 2), np.uint8), np.zeros(4, np.int64)
    dataset = Dataset(rows, labels, ("a",), None, "set")
    rows[0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        dataset.rows[0, 0] = 2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 5000, 9999])
def test_features_that_are_no_numbers(value, row):
    rows = np.zeros((10_000, 3), np.float32)
    rows[row, 2] = value
    with pytest.raises(
        DataError, match=f"^set: row {row}, column 2 is {value}; every feature must be a finite number$"
    ):
        split(make(10_000, rows=rows), SplitConfig())


def test_half_precision_that_overflowed_is_named():
    with np.errstate(over="ignore"):
        rows = np.array([[1.0, 7e4], [1.0, 2.0], [3.0, np.nan]]).astype(np.float16)
    said = "^set: row 0, column 1 is inf; every .*, and float16 has none above 65,504: save the features as float32$"
    with pytest.raises(DataError, match=said):
        split(make(3, rows=rows), SplitConfig())
    rows[0] = 1
    with pytest.raises(DataError, match=r"^set: row 2, column 1 is nan; every feature must be a finite number$"):
        split(make(3, rows=rows), SplitConfig())


def test_the_fingerprint_is_of_the_contents_and_not_of_their_storage():
    parts = batches(30)
    dataset = make(parts=parts)
    turned = {name: slice(90 - part.start, 120 - part.start) for name, part in parts.items()}
    rows, labels = np.empty_like(dataset.rows), np.empty_like(dataset.labels)
    for name, part in parts.items():
        rows[turned[name]], labels[turned[name]] = dataset.rows[part], dataset.labels[part]
    assert make(rows=rows, labels=labels, parts=turned).fingerprint == dataset.fingerprint
    assert make(rows=np.asfortranarray(rows), labels=labels, parts=turned).fingerprint == dataset.fingerprint
    assert make(rows=rows, labels=labels, parts=parts).fingerprint != dataset.fingerprint

    changed = dataset.labels.copy()
    changed[0] = (changed[0] + 1) % 4
    assert make(parts=parts, labels=changed).fingerprint != dataset.fingerprint
    changed = dataset.rows.copy()
    changed[-1, -1] ^= 1
    assert make(parts=parts, rows=changed).fingerprint != dataset.fingerprint


def test_rows_of_a_split():
    dataset = make()
    together = Split("a", dataset, np.arange(20, 50))
    assert np.shares_memory(together.rows(slice(3, 9)), dataset.rows)
    np.testing.assert_array_equal(together.rows(slice(3, 9)), dataset.rows[23:29])
    np.testing.assert_array_equal(together.rows(slice(25, 99)), dataset.rows[45:50])
    np.testing.assert_array_equal(together.rows(np.array([2, 0])), dataset.rows[[22, 20]])
    scattered = Split("b", dataset, np.array([7, 3, 90, 4]))
    np.testing.assert_array_equal(scattered.rows(slice(1, 3)), dataset.rows[[3, 90]])
    np.testing.assert_array_equal(np.concatenate(list(scattered.row_blocks(3))), dataset.rows[[7, 3, 90, 4]])
    assert [(block.start, block.stop) for block in scattered.blocks(3)] == [(0, 3), (3, 4)]
    np.testing.assert_array_equal(scattered.labels, dataset.labels[[7, 3, 90, 4]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": np.zeros((0, 3), np.uint8)}, r"rows have the shape \(0, 3\); expected \(n, d\), both at least 1"),
        ({"rows": np.zeros(3, np.uint8)}, r"rows have the shape \(3,\)"),
        ({"rows": np.zeros((120, 3), np.int16)}, "rows are int16; expected uint8 pixels or float features"),
        (
            {"labels": np.zeros(119, np.int64)},
            r"120 rows, but labels of the shape \(119,\); pass a label for each row, \(120,\)",
        ),
        ({"labels": np.zeros(120, np.int32)}, "labels are int32; expected int64"),
        ({"labels": np.arange(120)}, "row 4 has the label 4; labels are 0 to 3"),
        ({"labels": -np.ones(120, np.int64)}, "row 0 has the label -1; labels are 0 to 3"),
        ({"row_weights": np.ones(120, int)}, r"row weights are int64 of the shape \(120,\); expected float64 \(120,\)"),
        ({"row_weights": np.ones(5)}, r"row weights are float64 of the shape \(5,\); expected"),
        ({"row_weights": np.full(120, -1.0)}, "row weights must be finite numbers of at least 0"),
        ({"row_weights": np.full(120, 1e307)}, r"row weights .* at most 1e\+30; only .*, so divide all by their mean"),
        ({"row_weights": np.full(120, np.nan)}, "row weights must be finite numbers of at least 0"),
        ({"image_shape": (1, 2, 2)}, r"rows of 3 numbers are not images of \(1, 2, 2\)"),
    ],
)
def test_pieces_that_do_not_fit(changes, words):
    with pytest.raises(DataError, match=f"^set: {words}"):
        make(**changes)


def test_row_weights_are_kept_apart_from_the_callers_and_count_in_the_fingerprint():
    weights = np.ones(240)
    weighted = make(row_weights=weights[::2])
    assert weighted.row_weights.flags.c_contiguous
    assert weights.flags.writeable
    assert not weighted.row_weights.flags.writeable
    assert weighted.fingerprint != make().fingerprint


def test_a_data_set_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        make().rows[0, 0] = 1


def test_validation_rows_do_not_train_where_train_is_lacking():
    with pytest.raises(ConfigError, match=r"^set has no train; use the protocol stratified$"):
        split(make(parts={"validation": slice(0, 80), "test": slice(80, 120)}), SplitConfig())
