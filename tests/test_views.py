"""Training on patch features: views as rows, scores of averages over views, codes in the cache, runs that go on."""

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import coursework, plain_training, toy_dataset, toy_splits
from patched import pictures
from scipy.special import log_softmax

from onelayer import Model, train
from onelayer.analysis.evaluation import evaluate, logits_of
from onelayer.analysis.references import nearest_class_mean
from onelayer.coded import coded, feature_blocks, features_of
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DataError, OnelayerWarning
from onelayer.experiments.path import solve_path
from onelayer.features.map import UnitLength
from onelayer.features.patches import Patches
from onelayer.kernel import kernel
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import resume, start
from onelayer.training.state import Problem

CONFIG = coursework(features="patches:6", epochs=4, learning_rate=0.02, l2=0.01, init_std=0.0)


def divided(**facts):
    return split(pictures(**facts), SplitConfig(validation_size=30, test_size=20))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "rows"


def spoiled(*arguments, **options):
    raise AssertionError("features are computed again")


def spelled_out(splits, features):
    """Codes of all views as a data set of vectors, and its splits."""
    dataset, v = splits.dataset, features.views
    rows = features.transform(dataset.rows)
    weights = None if dataset.row_weights is None else np.array([w for w in dataset.row_weights for _ in range(v)])
    labels = np.array([label for label in dataset.labels for _ in range(v)])
    vectors = Dataset(rows, labels, dataset.class_names, None, "codes", row_weights=weights)
    places = {part.name: np.array([i * v + view for i in part.indices for view in range(v)]) for part in splits}
    return replace(splits, **{part.name: replace(part, dataset=vectors, indices=places[part.name]) for part in splits})


class TestTraining:
    def test_every_view_is_a_training_row_of_its_image(self):
        splits, config = divided(), replace(CONFIG, dtype="float64", backend="numpy")
        features = features_of(splits, config)
        assert features.views == 5
        result = train(splits, config)
        W, b = plain_training(spelled_out(splits, features), replace(config, momentum=0.9))
        assert abs(W).max() > 0.01
        assert result.model.layer.weights == pytest.approx(W, abs=1e-10)
        assert result.model.layer.bias == pytest.approx(b, abs=1e-10)
        mean = features.transform(splits.dataset.rows[splits.train.indices]).mean(axis=0)
        assert result.model.standardizer.mean == pytest.approx(mean, rel=1e-12)

    @pytest.mark.parametrize("backend", ["auto", "numpy"])
    @pytest.mark.parametrize("weighted", [False, True])
    @pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
    def test_scores_are_of_logits_averaged_over_views(self, backend, weighted, loss):
        weights = np.random.default_rng(1).uniform(0.2, 2, 150) if weighted else None
        splits = divided(row_weights=weights)
        result = train(splits, CONFIG, backend=backend, loss=loss)
        for part in splits:
            found, score = evaluate(result.model, part), result.scores[part.name]
            assert score.loss == pytest.approx(found.loss, rel=1e-5)
            assert score.accuracy == pytest.approx(found.accuracy, abs=1e-9)
        if loss == "softmax":
            of_views = spelled_out(splits, result.model.features).test
            X = (of_views.rows(slice(None)) - result.model.standardizer.mean) / result.model.standardizer.scale
            S = (X @ result.model.layer.weights + result.model.layer.bias).reshape(20, 5, 3).mean(axis=1)
            losses = -log_softmax(S, axis=1)[np.arange(20), splits.test.labels]
            w = splits.test.row_weights(slice(None))
            assert result.scores["test"].loss == pytest.approx(np.average(losses, weights=w), rel=1e-5)

    @pytest.mark.parametrize("backend", ["auto", "numpy"])
    def test_no_block_of_an_evaluation_cuts_the_views_of_an_image(self, backend, monkeypatch):
        monkeypatch.setattr("onelayer.training.backends.native.EVALUATED", 64)
        for module in ("coded", "model", "training.backends.array"):
            monkeypatch.setattr(f"onelayer.{module}.BLOCK_ROWS", 64)
        splits = divided()
        result = train(splits, CONFIG, backend=backend)
        for part in splits:
            S = result.model.logits(part.rows(slice(None)))
            losses = -log_softmax(S, axis=1)[np.arange(len(part)), part.labels]
            assert result.scores[part.name].loss == pytest.approx(losses.mean(), rel=1e-5)
            np.testing.assert_array_equal(logits_of(result.model, part), S)

    def test_the_scores_of_windows_are_the_same(self, cache, monkeypatch):
        splits, one = divided(source="stripes"), replace(CONFIG, epochs=1)
        whole = train(splits, one)
        monkeypatch.setattr("onelayer.data.windows.LEAST_ROWS", 24)
        monkeypatch.setattr("onelayer.data.windows.PART_BYTES", 1)
        in_windows = train(splits, replace(one, shuffle_blocks=64, epochs=0), start=None)
        layer = train(splits, replace(one, epochs=0)).scores
        assert in_windows.scores["train"].loss == pytest.approx(layer["train"].loss, rel=1e-6)
        assert whole.scores["train"].loss < layer["train"].loss
        found = train(splits, replace(one, shuffle_blocks=64))
        assert found.scores["test"].loss == pytest.approx(evaluate(found.model, splits.test).loss, rel=1e-5)

    def test_the_converged_solver_minimises_the_cost_of_all_views(self):
        splits = divided()
        config = TrainConfig(features="patches:6", solver="converged", l2=0.05, tol=1e-8, dtype="float64")
        result = train(splits, config)
        of_views = spelled_out(splits, result.model.features).train
        X = (of_views.rows(slice(None)) - result.model.standardizer.mean) / result.model.standardizer.scale
        W, b = result.model.layer.weights, result.model.layer.bias
        P = np.exp(log_softmax(X @ W + b, axis=1))
        P[np.arange(len(P)), of_views.labels] -= 1
        gradient = X.T @ P / len(P) + 2 * 0.05 * W
        assert abs(gradient).max() < 1e-5
        assert abs(P.mean(axis=0)).max() < 1e-5
        assert abs(W).max() > 0.01

    def test_a_path_is_chosen_by_averages_over_views(self):
        splits = divided()
        config = TrainConfig(features="patches:6", solver="converged")
        path = solve_path(splits, config, [1.0, 0.1])
        model = train(splits, replace(config, l2=0.1)).model
        found = evaluate(model, splits.validation)
        assert path.points[1].loss.value == pytest.approx(found.loss, rel=1e-3)
        assert path.points[1].train.loss == pytest.approx(evaluate(model, splits.train).loss, rel=1e-3)

    def test_the_map_is_drawn_from_the_training_rows_by_its_own_seed(self):
        splits = divided()
        a, b = (train(splits, replace(CONFIG, epochs=0, seed=seed)).model for seed in (1, 2))
        c = train(splits, CONFIG, epochs=0, features_seed=1).model
        drawn = Patches.drawn(splits.dataset.rows, splits.train.indices, (3, 16, 16), filters=6, seed=0)
        for name, array in drawn.tensors().items():
            np.testing.assert_array_equal(a.features.tensors()[name], array)
            np.testing.assert_array_equal(b.features.tensors()[name], array)
        assert not np.array_equal(c.features.tensors()["bias.4"], drawn.tensors()["bias.4"])
        named = train(splits, replace(CONFIG, epochs=1))
        by_map = train(splits, replace(CONFIG, epochs=1, features="none"), features=drawn)
        by_word = train(splits, replace(CONFIG, epochs=1, features="none"), features="patches:6")
        assert named.model.to_bytes() == by_map.model.to_bytes() == by_word.model.to_bytes()

    def test_mirror_images_of_filters_count_if_asked_for(self):
        colour, grey = divided(), divided(shape=(1, 16, 16))
        for splits, word, mirrored in (
            *((colour, "auto", True), (colour, "on", True), (colour, "off", False)),
            *((grey, "auto", False), (grey, "on", True), (grey, "off", False)),
        ):
            config = replace(CONFIG, epochs=0, features_mirror=word)
            assert train(splits, config).model.features.mirrored is mirrored
        with pytest.raises(ConfigError, match="features mirror 'yes' is not auto, on or off"):
            TrainConfig(features_mirror="yes")

    def test_a_state_of_other_features_is_refused(self):
        splits = divided()
        half = train(splits, replace(CONFIG, epochs=2)).state
        whole = train(splits, CONFIG).model.to_bytes()
        assert train(splits, CONFIG, start=half).model.to_bytes() == whole
        assert train(pictures(), CONFIG, start=half, validation_size=30, test_size=20).model.to_bytes() == whole
        assert train(splits, replace(CONFIG, features="none", momentum=0.9), start=half).model.to_bytes() == whole
        other = replace(CONFIG, features_seed=1)
        with pytest.raises(ConfigError, match=r"^the state is of other features patches than .*; pass features=start"):
            train(splits, other, start=half)
        assert train(splits, other, start=half, features=half.features).model.to_bytes() == whole
        with pytest.raises(ConfigError, match="the state is of other features patches than"):
            train(
                splits,
                CONFIG,
                start=half,
                features=Patches.drawn(splits.dataset.rows, np.arange(9), (3, 16, 16), filters=6),
            )

    def test_rows_of_weight_0_draw_no_filters(self):
        weights = (np.arange(150) % 3 > 0).astype(np.float64)
        splits = divided(row_weights=weights)
        places = splits.train.indices[weights[splits.train.indices] > 0]
        drawn = Patches.drawn(splits.dataset.rows, places, (3, 16, 16), filters=6)
        np.testing.assert_array_equal(features_of(splits, CONFIG).tensors()["bias.4"], drawn.tensors()["bias.4"])

    def test_an_encoder_is_read_again_when_its_files_have_changed(self, monkeypatch, tmp_path):
        monkeypatch.setattr("onelayer.coded.Encoder.read_files", lambda path, shape: UnitLength(768))
        path, splits = tmp_path / "encoder.onnx", divided()
        path.write_bytes(b"1")
        config = replace(CONFIG, features=f"onnx:{path}")
        first = features_of(splits, config)
        assert features_of(splits, config) is first
        path.with_suffix(".toml").write_text("size = 8")
        second = features_of(splits, config)
        path.write_bytes(b"22")
        assert len({id(one) for one in (first, second, features_of(splits, config))}) == 3

    @pytest.mark.parametrize("word", ["patch", "patches:", "patches:0", "patches:x", "patches:-1", "patches:4:4", 3])
    def test_another_word_is_refused(self, word):
        with pytest.raises(ConfigError, match=r"features .* is not none, patches, patches:K with") as error:
            TrainConfig(features=word)
        assert "\n" not in str(error.value)

    def test_rows_that_do_not_fit_are_refused_by_name(self):
        with pytest.raises(DataError, match=r"^toy: the features patches are for images, and the rows have no"):
            train(toy_splits(image_shape=None), CONFIG)
        with pytest.raises(ConfigError, match=r"^flip needs images, but the features patches:6 are not images; leave"):
            replace(CONFIG, flip=True)
        model = train(divided(), replace(CONFIG, epochs=0)).model
        with pytest.raises(DataError, match="rows of 60 numbers; the model is for 768 numbers"):
            evaluate(model, toy_splits().test)

    @pytest.mark.parametrize("source", ["", "stripes"])
    def test_the_nearest_class_mean_is_of_average_codes(self, cache, source):
        splits = divided(source=source)
        model = train(splits, CONFIG).model
        codes = model.features.transform(splits.dataset.rows).reshape(150, 5, -1).mean(axis=1)
        X = (codes - model.standardizer.mean) / model.standardizer.scale
        train_rows, labels = X[splits.train.indices], splits.train.labels
        means = np.array([train_rows[labels == k].mean(axis=0) for k in range(3)])
        expected = ((X[splits.test.indices, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        found = nearest_class_mean(model, splits.train, splits.test, evaluate(model, splits.test))
        np.testing.assert_array_equal(found.predictions, expected)
        assert (found.predictions == splits.test.labels).mean() > 0.8


class TestCache:
    def test_codes_of_a_source_are_computed_once(self, cache, monkeypatch):
        splits = divided(source="stripes")
        first = train(splits, CONFIG)
        assert [path.suffix for path in sorted(cache.iterdir())] == [".json", ".rows"]
        monkeypatch.setattr(Patches, "transform", spoiled)
        again = train(divided(source="stripes"), CONFIG, seed=3, start=None, features=first.model.features)
        assert again.scores.keys() == first.scores.keys()
        assert evaluate(first.model, splits.test).loss == pytest.approx(first.scores["test"].loss, rel=1e-5)

    def test_threads_that_want_the_same_codes_compute_them_once(self, cache, monkeypatch):
        counted, transform = [], Patches.transform

        def count(self, R, threads=0):
            counted.append(len(R))
            return transform(self, R, threads)

        monkeypatch.setattr(Patches, "transform", count)
        splits = divided(source="stripes")
        with ThreadPoolExecutor(4) as pool:
            maps = list(pool.map(lambda _: features_of(splits, CONFIG), range(4)))
            found = list(pool.map(lambda features: coded(splits, features).dataset.rows, maps))
        assert len(set(map(id, maps))) == 1
        assert sum(counted) <= 150 + 100 * 2  # all rows once, and the training rows, which set the levels of the codes
        for rows in found:
            np.testing.assert_array_equal(rows, found[0])

    def test_evaluation_by_the_cache_gives_the_same_bits(self, cache):
        model = train(divided(), CONFIG).model
        splits = divided(source="stripes")
        without = evaluate(model, splits.test)
        coded(splits, model.features)
        assert any(cache.iterdir())
        np.testing.assert_array_equal(evaluate(model, splits.test).probabilities, without.probabilities)

    def test_rows_of_unit_length_are_not_kept(self, cache):
        """They are float64, so that an evaluation by rows in float32 from the cache would differ a little."""
        splits = split(replace(toy_dataset(dtype="float32"), source="toy"), SplitConfig())
        model = train(splits, CONFIG, features=UnitLength(60)).model
        assert not any(cache.iterdir())
        np.testing.assert_array_equal(logits_of(model, splits.test), model.logits(splits.test.rows(slice(None))))

    def test_other_rows_another_map_or_other_code_have_codes_of_their_own(self, cache, monkeypatch):
        splits = divided(source="stripes")
        features = features_of(splits, CONFIG)
        other = Patches.drawn(splits.dataset.rows, splits.train.indices, (3, 16, 16), filters=6, seed=9)
        coded(splits, features)
        coded(splits, other)
        coded(divided(source="stripes", seed=4), features)
        coded(divided(source="stripes", parts={"a": slice(75, 150), "b": slice(75)}), features)
        assert len(list(cache.glob("*.rows"))) == 4
        if kernel is not None:
            with monkeypatch.context() as patch:  # float32 and bfloat16 do not share codes
                patch.setenv("ONELAYER_KERNEL", "emulated-bf16")
                coded(splits, features)
        kept = 4 + (kernel is not None)
        assert len(list(cache.glob("*.rows"))) == kept
        monkeypatch.setattr("onelayer.coded.kernel", None)
        coded(splits, features)
        assert len(list(cache.glob("*.rows"))) == kept + 1
        monkeypatch.setattr("onelayer.coded.version", lambda name: "0.0.1")
        coded(splits, features)
        assert len(list(cache.glob("*.rows"))) == kept + 2

    def test_codes_of_rows_in_memory_are_not_kept(self, cache):
        rows = coded(divided(), features_of(divided(), CONFIG)).dataset.rows
        assert isinstance(rows, np.memmap)
        assert not list(cache.iterdir())

    def test_an_interruption_leaves_nothing(self, cache, monkeypatch):
        def interrupted(*arguments, **options):
            raise KeyboardInterrupt

        splits = divided(source="stripes")
        features = features_of(splits, CONFIG)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Patches, "transform", interrupted)
            coded(splits, features)
        assert not list(cache.iterdir())

    def test_a_damaged_entry_is_made_again(self, cache):
        splits = divided(source="stripes")
        features = features_of(splits, CONFIG)
        expected = np.array(coded(splits, features).dataset.rows)
        rows = next(cache.glob("*.rows"))
        rows.write_bytes(rows.read_bytes()[:-1])
        np.testing.assert_array_equal(coded(splits, features).dataset.rows, expected)

    def test_no_room_is_said_in_a_line(self, cache, monkeypatch):
        def full(file, size):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("onelayer.data.cache._allocate", full)
        monkeypatch.setattr("onelayer.data.cache.MEMORY_BYTES", 1000)
        with pytest.raises(DataError, match="No space left on device; free some space") as error:
            train(divided(source="stripes"), CONFIG)
        assert "\n" not in str(error.value)
        monkeypatch.setattr("onelayer.data.cache.MEMORY_BYTES", 2**20)
        words = r"^stripes as patches: the cache .* cannot be written or is full, so the features stay in memory and"
        with pytest.warns(OnelayerWarning, match=words):
            in_memory = train(divided(source="stripes"), CONFIG).model
        assert in_memory.to_bytes() == train(divided(), CONFIG).model.to_bytes()
        assert not list(cache.iterdir())


class TestRuns:
    @pytest.mark.parametrize("solver", ["sgd", "converged"])
    def test_a_run_goes_on_to_the_same_bits(self, tmp_path, solver):
        splits, config = divided(), CONFIG
        if solver == "converged":
            config = TrainConfig(features="patches:6", solver="converged", l2=0.01, backend="numpy")
        plan = Plan(config, SplitConfig(validation_size=30, test_size=20), "stripes", splits.dataset.fingerprint)
        whole = start(Run.create(tmp_path / "whole"), plan, Problem.of(splits, config))
        stopped, seen = Run.create(tmp_path / "stopped"), []

        def stop(state):
            seen.append(state)
            if len(seen) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            start(stopped, plan, Problem.of(splits, config), stop)
        _, state = stopped.read_checkpoint()
        assert state.features.facts() == whole.model.features.facts()
        on = resume(stopped, divided())
        assert on.model.to_bytes() == whole.model.to_bytes()
        assert stopped.model.features.views == 5
        assert Model.load(stopped.model_path).to_bytes() == whole.model.to_bytes()

    def test_commands_take_a_run_with_features(self, run_cli, tiny_cifar, tmp_path, monkeypatch):
        tiny = ["--data", tiny_cifar, "--features", "patches:5", "--epochs", "2", "--learning-rate", "0.02"]
        code, out, err = run_cli("train", *tiny, "--l2", "0.1", "--out", "run", "--no-figures")
        assert (code, err) == (0, "")
        assert "\nfeatures patches: 180 numbers, in 5 views of each image\n" in out
        assert "at most" in out
        assert "a single step" not in out  # of batches of 100 rows, of which there are 300
        rows = "60 training rows of CIFAR-10 as patches, each of 5 views by itself, which scores average"
        assert f"best possible for lambda 0.1 ({rows})\n" in out
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["config"]["features"] == "patches:5"
        assert summary["data"]["sizes"] == {"train": 60, "validation": 60, "test": 60}
        of_run = summary["results"]["test"]["accuracy"]
        code, out, _ = run_cli("evaluate", "run", "--json")
        assert code == 0
        assert json.loads(out)["accuracy"] == pytest.approx(of_run)
        assert run_cli("certify", "run")[0] == 0
        assert run_cli("resume", "run", "--epochs", "3", "--no-figures")[0] == 0
        code, out, _ = run_cli("train", *tiny, "--out", "other", "--no-figures", "--seed", "7", "--batch-size", "301")
        assert code == 0
        assert "note: a batch of 301 rows is all 300, so an epoch is a single step" in out
        assert run_cli("compare", "run", "other")[0] == 0
        monkeypatch.setattr("onelayer.data.sources.load", spoiled)  # refused before anything is read
        for command in (("train", *tiny), ("path", "--data", tiny_cifar, "--features", "patches:5")):
            code, _, err = run_cli(*command, "--out", "run")
            assert (code, "holds a run already" in err) == (2, True)
        code, _, err = run_cli("train", "--data", tiny_cifar, "--features", "patch")
        assert (code, "features 'patch' is not none, patches" in err) == (2, True)

    def test_a_sweep_computes_codes_once(self, run_cli, tiny_cifar, tmp_path, monkeypatch):
        counted, transform = [], Patches.transform

        def count(self, R, threads=0):
            counted.append(len(R))
            return transform(self, R, threads)

        monkeypatch.setattr(Patches, "transform", count)
        options = ["--features", "patches:5", "--epochs", "1", "--l2", "0", "0.1", "--seeds", "2"]
        code, _, err = run_cli("sweep", "--data", tiny_cifar, *options, "--out", "sweep")
        assert (code, err) == (0, "")
        assert sum(counted) <= 180 + 60 * 2  # all rows once, and the sample that sets the levels of the codes


def test_features_by_name_from_the_package():
    result = train(pictures(), features="patches:6", epochs=2, validation_size=30, test_size=20)
    assert result.model.features.name == "patches"
    assert result.scores["test"].accuracy > 0.5
    assert toy_dataset().views == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how many pages are held")
def test_few_pages_of_features_in_the_cache_are_held(monkeypatch, tmp_path):
    path, shape = tmp_path / "features", (20_000, 2_000)
    np.memmap(path, np.uint8, "w+", shape=shape)[:] = 7
    monkeypatch.setattr("onelayer.coded._found", lambda *_: np.memmap(path, np.uint8, "r", shape=shape))
    dataset = Dataset(np.zeros((20_000, 3), np.uint8), np.zeros(20_000, np.int64), ("a",), None, "many")
    held = []
    mixed = Split("all", dataset, np.random.default_rng(0).permutation(20_000))
    for place, (_, F) in enumerate(feature_blocks(mixed, UnitLength(3))):
        assert F.min() == F.max() == 7
        smaps = Path("/proc/self/smaps").read_text() if place % 5 == 4 else ""
        held += [int(kilobytes) for kilobytes in re.findall(rf"{path}\n(?:.*\n)*?Rss: +(\d+) kB", smaps)]
    assert len(held) > 5
    assert min(held) < 16_000
    assert np.median(held) < 32_000  # of 40,000; for a moment more, as a thread reads the next rows meanwhile
