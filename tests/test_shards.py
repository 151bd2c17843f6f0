"""Manifests of shards: written, read as one data set, divided among processes, and refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from threads import in_threads

from onelayer.config import SplitConfig, TrainConfig
from onelayer.data import cache, load, load_splits
from onelayer.data.dataset import Splits
from onelayer.data.formats.shards import parse_manifest, write_manifest
from onelayer.errors import ConfigError, DataError
from onelayer.processes import Processes
from onelayer.training.train import train

pa = pytest.importorskip("pyarrow")
SIZES = {"train": (70, 40, 90), "validation": (30,), "test": (25, 15)}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Shards of three formats; the last of training lacks a class."""
    import pyarrow.parquet as pq

    rng, prototypes = np.random.default_rng(0), np.random.default_rng(1).normal(0, 1, (3, 8))
    shards: dict[str, list[Path]] = {}
    for part, sizes in SIZES.items():
        for number, n in enumerate(sizes):
            y = rng.integers(0, 3 - (part == "train" and number == 2), n)
            X = (prototypes[y] + rng.normal(0, 1, (n, 8))).astype(np.float32)
            folder = tmp_path / part
            folder.mkdir(exist_ok=True)
            if number == 0:
                file = folder / "img_emb_0.npy"
                np.save(file, X)
                np.save(folder / "labels_0.npy", y)
            elif number == 1:
                file = folder / "one.safetensors"
                save_file({"X": X, "y": y}, file)
            else:
                file = folder / "two.parquet"
                pq.write_table(pa.table({"embedding": pa.array(list(X)), "label": y}), file)
            shards.setdefault(part, []).append(file)
    path = tmp_path / "toy.shards.json"
    write_manifest(path, shards, class_names=("a", "b", "c"))
    return path


def changed(path: Path, change: Callable[[dict], object]) -> Path:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_is_read_as_one_data_set(manifest: Path):
    dataset = load(manifest)
    assert dataset.rows.shape == (270, 8)
    assert dataset.rows.dtype == np.float32
    assert {part: where.stop - where.start for part, where in dataset.parts.items()} == {
        part: sum(sizes) for part, sizes in SIZES.items()
    }
    assert np.array_equal(dataset.rows[:70], np.load(manifest.parent / "train" / "img_emb_0.npy"))
    assert np.array_equal(dataset.labels[:70], np.load(manifest.parent / "train" / "labels_0.npy"))
    assert dataset.class_names == ("a", "b", "c")
    assert dataset.name == "toy"
    assert len(dataset.fingerprint) == 64
    assert load(manifest).fingerprint == dataset.fingerprint


@pytest.mark.parametrize("large", [False, True])
def test_each_process_holds_its_shards(manifest: Path, large: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Every row has one holder; rank 0 can read the test rows too; what others hold is zero."""
    whole = load_splits(manifest)
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path / "cache")
    if large:
        monkeypatch.setattr(cache, "MEMORY_BYTES", 100)
    found = in_threads(4, lambda processes: load_splits(manifest, processes=processes))
    for part in ("train", "validation", "test"):
        held = np.concatenate([getattr(splits, part).mine.indices for splits in found])
        assert np.array_equal(np.sort(held), getattr(whole, part).indices)
    assert not len(found[3].train.mine)  # there are three shards
    for rank, splits in enumerate(found):
        dataset, test = splits.dataset, splits.test.indices
        mine = splits.dataset.holding.held
        assert np.array_equal(dataset.rows[mine], whole.dataset.rows[mine])
        assert np.array_equal(dataset.rows[test].any(axis=1), np.full(len(test), rank == 0) | mine[test])
        assert dataset.fingerprint == whole.dataset.fingerprint
        assert splits.duplicates == {}
    assert not list((tmp_path / "cache").glob("rows/*"))


def test_trains_as_one_process(manifest: Path):
    config = TrainConfig(epochs=3, dtype="float64", learning_rate=0.1)
    one = train(load_splits(manifest), config)
    for other in in_threads(3, lambda processes: train(load_splits(manifest, processes=processes), config)):
        np.testing.assert_allclose(other.state.layer.weights, one.state.layer.weights, rtol=0, atol=1e-13)
        assert other.scores["test"].accuracy == one.scores["test"].accuracy
    assert one.scores["test"].accuracy > 0.6


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["shards"][0].update(path="../secret.npy"), "names ../secret.npy, which is outside its folder"),
        (lambda c: c["shards"][0].update(path="/etc/passwd"), "which is outside its folder"),
        (lambda c: c["shards"][0].update(sha256="0" * 64), "img_emb_0.npy: is not the file that toy.shards.json names"),
        (lambda c: c["shards"][1].update(path="train/gone.npy"), "gone.npy: no such file"),
        (
            lambda c: (c["shards"][0].update(count=69), c["shards"][1].update(count=41)),
            "has 70 rows; toy.shards.json says 69",
        ),
        (lambda c: c.update(features=9), "has rows of 8 numbers of float32; toy.shards.json says 9"),
        (lambda c: c.update(dtype="float64"), "has rows of 8 numbers of float32"),
        (lambda c: c.update(labels_sha256="1"), "toy.labels.npy: is not the file"),
        (lambda c: c["shards"].pop(), "toy.shards.json has 255 rows, each with a label"),
        (lambda c: c["shards"].reverse(), "its shards are not in the order"),
        (lambda c: c.update(format="x"), "is not a manifest of shards"),
        (lambda c: c.pop("shards"), "is not a manifest of shards"),
        (lambda c: c["shards"][0].update(part="dev"), "is not a manifest of shards"),
        (lambda c: c["shards"][0].update(part="\x1b[2J"), r"a shard is of the part \?\[2J"),
        (lambda c: c["shards"][0].update(count=float("inf")), "is not a manifest of shards"),
        (lambda c: c.update(features=10**12), "says 1,000,000,000,000 of float32"),
        (lambda c: c.update(class_names=["a", "a", "b"]), "is not a manifest of shards"),
    ],
)
def test_bad_manifests_are_refused(manifest: Path, change: Callable[[dict], object], match: str):
    with pytest.raises(DataError, match=match):
        load(changed(manifest, change))


def test_the_folder_of_a_manifest_leads_to_it(manifest: Path):
    """Some of its files would be a data set of their own."""
    with pytest.raises(DataError, match=rf"^{manifest.parent}: holds a manifest of shards; pass {manifest}, or move"):
        load(manifest.parent)


def test_processes_with_other_data_are_refused(manifest: Path, tmp_path: Path):
    other = tmp_path / "other"
    shutil.copytree(manifest.parent / "train", other / "train")
    write_manifest(
        other / "toy.shards.json",
        {"train": [other / "train" / "img_emb_0.npy"], "test": [other / "train" / "one.safetensors"]},
    )
    places = [manifest, other / "toy.shards.json", manifest]
    with pytest.raises(ConfigError, match=r"^rank 1 and rank 0 differ in the data; start all with the same command"):
        in_threads(3, lambda processes: load_splits(places[processes.rank], processes=processes))


def test_a_damaged_shard_is_found_by_the_process_that_holds_it(manifest: Path):
    file = manifest.parent / "test" / "one.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    def work(processes: Processes) -> Splits:
        return load_splits(manifest, processes=processes)

    with pytest.raises(DataError, match=r"one.safetensors: is not the file .* its hash differs"):
        in_threads(3, work)


def test_several_processes_need_test_shards(manifest: Path):
    alone = changed(manifest, lambda c: c.update(shards=c["shards"][:4]))
    np.save(alone.parent / "toy.labels.npy", np.load(alone.parent / "toy.labels.npy")[:230])
    write_manifest(alone, {"train": [alone.parent / "train" / "img_emb_0.npy"]})
    assert load_splits(alone, SplitConfig(protocol="stratified")).test.weight
    with pytest.raises(DataError, match="names no test shards, which several processes need"):
        in_threads(2, lambda processes: load_splits(alone, processes=processes))


def test_not_a_number_is_named(tmp_path: Path):
    X = np.ones((4, 2), np.float32)
    X[3, 1] = np.nan
    np.save(tmp_path / "a.npy", X)
    write_manifest(tmp_path / "x.shards.json", {"train": [tmp_path / "a.npy"]}, {"train": np.array([0, 1, 0, 1])})
    assert parse_manifest(tmp_path / "x.shards.json").count == 4
    with pytest.raises(DataError, match=r"a.npy: row 3, column 1 is nan"):
        load(tmp_path / "x.shards.json")


def test_what_cannot_be_a_shard_is_refused_when_the_manifest_is_written(tmp_path: Path):
    import pyarrow.parquet as pq

    np.save(tmp_path / "a.npy", np.ones((4, 2), np.float32))
    np.save(tmp_path / "b.npy", np.ones((4, 3), np.float32))
    pq.write_table(
        pa.table({"embedding": pa.array([], pa.list_(pa.float32())), "label": pa.array([], pa.int8())}),
        tmp_path / "none.parquet",
    )
    (tmp_path / "c.txt").write_text("1 2")
    inside = tmp_path / "inside"
    inside.mkdir()
    y = {"train": np.zeros(4, int)}
    for path, files, labels, match in [
        ("x.json", ["a.npy"], y, "the name of a manifest ends in .shards.json"),
        ("x.shards.json", ["a.npy"], None, "its labels are not known"),
        ("x.shards.json", ["a.npy", "b.npy"], y, "rows of another type or length"),
        ("x.shards.json", ["c.txt"], y, "is not a shard"),
        ("inside/x.shards.json", ["a.npy"], y, "outside its folder"),
        (
            "x.shards.json",
            ["a.npy"],
            {"train": np.zeros(3, int)},
            r"labels of train have the shape \(3,\); pass a whole number",
        ),
        (
            "x.shards.json",
            ["a.npy"],
            {"test": np.zeros(4, int)},
            r"labels of train have the shape \(0,\); pass a whole number",
        ),
        ("x.shards.json", ["a.npy"], {"train": np.zeros(4)}, "the labels are float64; pass a whole number for each"),
        ("x.shards.json", ["none.parquet"], {"train": np.zeros(0, int)}, "none.parquet: has no rows; leave it out"),
        ("x.shards.json", [], y, "there are no shards; name some"),
    ]:
        with pytest.raises(DataError, match=match):
            write_manifest(tmp_path / path, {"train": [tmp_path / file for file in files]}, labels)
    with pytest.raises(DataError, match="there is no part dev"):
        write_manifest(tmp_path / "x.shards.json", {"dev": [tmp_path / "a.npy"]})
