"""Data sets by name and path, and their splits."""

import dataclasses
import gzip
import hashlib
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from onelayer.config import SourceConfig, SplitConfig
from onelayer.data import load, load_splits
from onelayer.data.catalogue import KNOWN, Format
from onelayer.data.formats.cifar_sets import CIFAR10, CIFAR100
from onelayer.data.formats.idx import find_idx_set, read_idx
from onelayer.data.formats.idx_sets import MNIST, PublishedFile
from onelayer.data.sources import Source, find
from onelayer.errors import ConfigError, DataError, DownloadError

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the user's cache is elsewhere, and cannot be moved")


@pytest.fixture
def offline(monkeypatch):
    """Point every download at a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, nobody)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_digits_are_scikit_learn_s_as_bytes():
    dataset = load("digits")
    images = load_digits().images  # 0..16
    assert dataset.rows.shape == (1797, 64)
    assert dataset.rows.min() == 0
    assert dataset.rows.max() == 255
    np.testing.assert_allclose(dataset.rows.reshape(-1, 8, 8), images * 255 / 16, atol=0.5)
    np.testing.assert_array_equal(dataset.labels, load_digits().target)
    assert dataset.class_names == tuple("0123456789")
    assert (dataset.image_shape, dataset.name, dataset.official) == ((1, 8, 8), "digits", None)


def test_a_path(tiny_cifar):
    assert load(tiny_cifar).fingerprint == load(str(tiny_cifar.parent)).fingerprint
    assert list(load(tiny_cifar, parts=("test_batch",)).parts) == ["test_batch"]


def test_a_path_without_data(tmp_path):
    (tmp_path / "notes.txt").touch()
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match=rf"^{path}: holds no data that onelayer reads; pass CIFAR-10 or "):
            load(path)


@pytest.mark.parametrize(
    "inner", ["datasets/cifar-10-batches-py", "cifar10", "x/cifar10", "x/y/cifar-10-python.tar.gz"]
)
def test_a_folder_one_or_two_levels_above_cifar(inner, tiny_cifar, write_tar, tmp_path, monkeypatch):
    place = tmp_path / "cache" / inner
    place.parent.mkdir(parents=True)
    if inner.endswith("gz"):
        write_tar(tiny_cifar, place)
    else:
        tiny_cifar.rename(place)
    (tmp_path / "cache" / "other" / "deep").mkdir(parents=True)
    assert find(tmp_path / "cache") == Source("cifar below", place, given=True)
    assert len(load(tmp_path / "cache").rows) == 360
    assert load_splits(tmp_path / "cache", SplitConfig()).protocol == "batch"
    monkeypatch.setenv("ONELAYER_DATA", str(tmp_path / "cache"))
    assert find("cifar10") == Source("cifar10", place)


def test_several_sets_below_a_folder(tiny_cifar, write_tar, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        write_tar(tiny_cifar, tmp_path / "cache" / name / "cifar-10-python.tar.gz")
    words = r"/cache: holds several sets; pass the path of one: a/cifar-10-python.tar.gz, b/cifar-10-python.tar.gz$"
    with pytest.raises(DataError, match=words):
        load(tmp_path / "cache")


def test_what_is_called_train_is_no_cifar_below(tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "train").write_text("cat/1.png")
    assert find(tmp_path).name == "folder"


def test_a_folder_of_files_that_are_sets(tmp_path):
    for name in ("wine.npz", "iris.npz", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(
        DataError, match=rf"^{tmp_path}: is a folder; pass the path of a file in it: iris.npz, wine.npz$"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_the_environment_says_where(name, tiny_cifar, monkeypatch):
    monkeypatch.setenv("ONELAYER_DATA", str(tiny_cifar.parent))
    assert find(name) == Source(name, tiny_cifar)
    assert len(load(name).rows) == 360


@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_the_environment_says_wrong(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ONELAYER_DATA", str(tmp_path))
    with pytest.raises(DataError, match=rf"^ONELAYER_DATA: {tmp_path}: no CIFAR-10 here \(looked for "):
        load(name)
    monkeypatch.setenv("ONELAYER_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"^ONELAYER_DATA: .*/none: no such file or folder$"):
        load(name)


@linux_only
@pytest.mark.parametrize("name", ["cifar10", "auto"])
def test_the_cache_has_it(name, tiny_cifar, write_tar, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "onelayer").mkdir()
    archive = write_tar(tiny_cifar, tmp_path / "onelayer" / "cifar-10-python.tar.gz")
    assert find(name) == Source(name, archive)
    assert len(load(name).rows) == 360


# other sets by name


@pytest.fixture
def tiny_mnist(tmp_path):
    """A folder of data sets with a small one where torchvision puts MNIST."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "sets" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, n in (("train", 50), ("t10k", 20)):
        for name, array in (
            ("images-idx3", rng.integers(0, 256, (n, 4, 4), np.uint8)),
            ("labels-idx1", rng.permutation(n).astype(np.uint8) % 10),
        ):
            header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    return tmp_path / "sets"


def test_a_set_by_name_in_a_folder_of_sets(tiny_mnist, monkeypatch):
    for named in (tiny_mnist, tiny_mnist / "MNIST", tiny_mnist / "MNIST" / "raw"):
        monkeypatch.setenv("ONELAYER_DATA", str(named))
        assert find("mnist") == Source("mnist", tiny_mnist / "MNIST" / "raw")
    dataset = load("mnist")
    assert (dataset.name, dataset.source, dataset.official, len(dataset.rows)) == ("MNIST", "mnist", False, 70)
    splits = load_splits("mnist", SplitConfig())
    assert [len(split) for split in splits] == [40, 10, 20]
    assert load(tiny_mnist / "MNIST").source == str(tiny_mnist / "MNIST" / "raw")
    monkeypatch.setenv("ONELAYER_DATA", str(tiny_mnist / "none"))
    with pytest.raises(DataError, match=r"^ONELAYER_DATA: .*/none: no such file or folder$"):
        load("mnist")


def test_the_hundred_by_name_or_path(tiny_batches, write_form_100, write_tar, tmp_path, monkeypatch):
    rows, labels = tiny_batches["data_batch_1"]
    parts = {part: (rows, {"fine": labels * 5, "coarse": labels}) for part in ("train", "test")}
    names = {kind: CIFAR100.classes[f"{kind}_labels"] for kind in ("fine", "coarse")}
    folder = write_form_100(parts, names, "python", tmp_path)
    monkeypatch.setenv("ONELAYER_DATA", str(tmp_path))
    assert find("cifar100") == Source("cifar100", folder)
    assert load("cifar100").source == "cifar100"
    archive = write_tar(folder, tmp_path / "any.tar.gz")
    for source in ("cifar100", folder, tmp_path, archive):
        splits = load_splits(source, SplitConfig())
        assert splits.protocol == "full"
        assert [len(split) for split in splits] == [48, 12, 60]
        assert len(splits.dataset.class_names) == 100
        coarse = load_splits(source, SplitConfig(protocol="given"), source_config=SourceConfig(coarse=True)).dataset
        assert coarse.labels.tolist() == labels.tolist() * 2
    with pytest.raises(DataError, match=r"any.tar.gz: lacks data_batch_1, "):  # another set than was asked for
        monkeypatch.setenv("ONELAYER_DATA", str(archive))
        load("cifar10")


@pytest.mark.parametrize("source", ["cifar10", "auto", "digits", "mnist", "path"])
def test_coarse_labels_where_there_are_none(source, tiny_mnist):
    words = r"^coarse does not apply to .*; leave it out$"
    with pytest.raises(ConfigError, match=words):
        load(tiny_mnist / "MNIST" if source == "path" else source, source_config=SourceConfig(coarse=True))


@linux_only
@pytest.mark.parametrize("name", ["cifar100", "mnist", "fashion-mnist", "kmnist"])
def test_other_sets_do_not_stop_where_the_environment_names_cifar10(name, tiny_cifar, monkeypatch, offline):
    for named in (tiny_cifar, tiny_cifar.parent):
        monkeypatch.setenv("ONELAYER_DATA", str(named))
        assert find(name) == Source(name)
        with pytest.raises(DownloadError, match=r"^https?://\S+gz: no connection to the server; download it by hand"):
            load(name)


@linux_only
def test_a_set_is_downloaded_once(tiny_mnist, monkeypatch, tmp_path):
    files = {file.name: gzip.compress(file.read_bytes()) for file in (tiny_mnist / "MNIST" / "raw").iterdir()}
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = files[self.path.removeprefix("/").removesuffix(".gz")]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            published = {
                name: PublishedFile(hashlib.md5(content, usedforsecurity=False).hexdigest(), len(content))
                for name, content in files.items()
            }
            ours = dataclasses.replace(MNIST, url=f"http://127.0.0.1:{http.server_port}", files=published)
            monkeypatch.setattr("onelayer.data.formats.idx.SETS", (ours,))
            form = Format(
                lambda path: find_idx_set(path, ours), lambda path, _, __, progress: read_idx(path, progress, ours)
            )
            monkeypatch.setitem(KNOWN, "mnist", KNOWN["mnist"]._replace(format=form, downloads=ours.downloads))
            calls = []
            dataset = load("mnist", progress=lambda done, total: calls.append((done, total)))
        finally:
            http.shutdown()
            thread.join()
    assert (dataset.official, dataset.notes, dataset.source, len(dataset.rows)) == (True, (), "mnist", 70)
    assert sorted(file.name for file in (tmp_path / "cache" / "onelayer" / "mnist").iterdir()) == sorted(
        f"{name}.gz" for name in files
    )
    assert len(asked) == 4
    assert load("mnist").fingerprint == dataset.fingerprint  # from the cache: the server has stopped


@linux_only
def test_offline(offline):
    with pytest.raises(DownloadError, match=r"no connection to the server; download it by hand and pass --data PATH$"):
        load("cifar10")
    splits = load_splits("auto", SplitConfig())
    assert splits.dataset.name == "digits"
    (note,) = splits.dataset.notes
    assert note.startswith("these are scikit-learn's digits, as CIFAR-10 is not available: https://")
    assert "\n" not in note


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cifar", r"^cifar: no such file or folder, and not one of auto, cifar10, .*, digits; did you mean cifar10\?$"),
        ("digit", r"did you mean digits\?$"),
        ("FashonMNIST", r"did you mean fashion-mnist\?$"),
        ("imagenet", r"and not one of auto, cifar10, cifar100, mnist, fashion-mnist, kmnist, digits$"),
        ("./cifar", r"^cifar: no such file or folder$"),
        ("no/where", r"^no/where: no such file or folder$"),
    ],
)
def test_names_that_are_none(name, words):
    with pytest.raises(DataError, match=words):
        load(name)


@pytest.mark.parametrize("form", ["python", "binary", "matlab"])
@pytest.mark.parametrize("packed", [False, True])
def test_splits_read_the_parts_they_need(tiny_batches, write_form, write_tar, tmp_path, form, packed):
    source = write_form(tiny_batches, form, tmp_path)
    if packed:
        source = write_tar(source, tmp_path / "a.tar.gz")
    splits = load_splits(source, SplitConfig())
    assert splits.protocol == "batch"
    for split, part in zip(splits, ("data_batch_1", "data_batch_2", "test_batch"), strict=True):
        np.testing.assert_array_equal(split.rows(slice(None)), tiny_batches[part][0])
        np.testing.assert_array_equal(split.labels, tiny_batches[part][1])
    assert len(splits.dataset.rows) == 180

    splits = load_splits(source, SplitConfig(protocol="full", validation_size=50))
    assert [len(split) for split in splits] == [250, 50, 60]
    np.testing.assert_array_equal(splits.test.rows(slice(None)), tiny_batches["test_batch"][0])

    splits = load_splits(source, SplitConfig(protocol="stratified"))
    assert sum(len(split) for split in splits) == 360


@pytest.mark.parametrize("packed", [False, True])
def test_splits_of_a_subset(tiny_cifar, write_tar, tmp_path, packed):
    for part in CIFAR10.parts[1:5]:
        (tiny_cifar / part).unlink()
    source = write_tar(tiny_cifar, tmp_path / "a.tar.gz") if packed else tiny_cifar
    splits = load_splits(source, SplitConfig(validation_size=10))
    assert splits.protocol == "full"
    assert [len(split) for split in splits] == [50, 10, 60]
    missing = "data_batch_2, data_batch_3, data_batch_4, data_batch_5"
    assert splits.dataset.notes[-1] == f"not the whole CIFAR-10: it lacks {missing}"
    with pytest.raises(ConfigError, match="CIFAR-10 has no data_batch_2; use the protocol full"):
        load_splits(source, SplitConfig(protocol="batch"))


def test_the_batches_suffice_for_their_protocol_and_no_other(cifar, tmp_path):
    for name in ("data_batch_1", "data_batch_2", "test_batch", "batches.meta"):
        (tmp_path / name).symlink_to(cifar / name)
    dataset = load_splits(tmp_path, SplitConfig()).dataset
    assert (dataset.official, dataset.notes) == (True, ())
    dataset = load_splits(tmp_path, SplitConfig(protocol="full")).dataset
    words = "not the whole CIFAR-10: it lacks data_batch_3, data_batch_4, data_batch_5"
    assert (dataset.official, dataset.notes) == (False, (words,))


@pytest.mark.parametrize(
    ("spelt", "name"),
    [
        *[(spelt, "cifar10") for spelt in ("CIFAR10", "cifar-10", "CIFAR-10", "Cifar_10", "cifar 10")],
        *[("CIFAR-100", "cifar100"), ("MNIST", "mnist"), ("KMNIST", "kmnist"), ("Digits", "digits"), ("AUTO", "auto")],
        *[(spelt, "fashion-mnist") for spelt in ("FashionMNIST", "Fashion_MNIST", "fashion_mnist", "FASHION-MNIST")],
    ],
)
def test_names_in_other_spellings(spelt, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(spelt) == find(name)
    (tmp_path / spelt / "cat").mkdir(parents=True)
    assert find(spelt) == Source("folder", Path(spelt), given=True), "what is there comes first"


def test_a_data_set_has_one_name_however_it_was_spelt(tiny_cifar, monkeypatch):
    monkeypatch.setenv("ONELAYER_DATA", str(tiny_cifar))
    assert load("CIFAR-10").source == "cifar10"
    for other in ("cifar", "cifar1", "mnistfashion", "fashion/mnist", "./CIFAR10"):
        with pytest.raises(DataError, match="no such file or folder"):
            find(other)


def test_digits_have_no_batches():
    with pytest.raises(ConfigError, match=r"digits has no .*; use the protocol stratified"):
        load_splits("digits", SplitConfig(protocol="batch"))


def test_the_real_set(cifar):
    splits = load_splits(cifar, SplitConfig())
    assert splits.dataset.official
    assert [len(split) for split in splits] == [10_000, 10_000, 10_000]
    assert splits.duplicates == {"validation in train": 0, "test in train": 0, "test in validation": 0}


def test_importing_loads_no_heavy_library():
    heavy = "{'scipy', 'sklearn', 'pooch', 'requests', 'platformdirs', 'PIL'}"
    code = f"import sys, onelayer.data, onelayer.data.untrusted.images; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_settings_of_the_reader_are_given_by_name():
    with pytest.raises(TypeError):
        load("digits", SourceConfig())
    with pytest.raises(TypeError):
        load_splits("digits", SplitConfig(), SourceConfig())
    given = load_splits("digits", SplitConfig(), source_config=SourceConfig())
    for splits in (load_splits("digits"), load_splits(source="digits", split_config=SplitConfig())):
        for ours, theirs in zip(splits, given, strict=True):
            np.testing.assert_array_equal(ours.indices, theirs.indices)


@pytest.mark.parametrize(("size", "told"), [("32", True), ("8x9", True), ("8", False), ("8x8", False)])
def test_a_size_that_does_not_apply_is_noted(size, told, tmp_path):
    notes = load("digits", source_config=SourceConfig(image_size=size)).notes
    assert notes == ((f"the image size {size} does not apply to digits, whose images are 8 x 8",) if told else ())
    np.savez(tmp_path / "rows.npz", X=np.eye(64), y=np.arange(64) % 2)
    notes = load(tmp_path / "rows.npz", source_config=SourceConfig(image_size=size)).notes
    assert notes[-1] == f"the image size {size} does not apply to rows, whose rows are not images"
