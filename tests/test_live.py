"""The page's engine without a server: a session that trains and answers."""

import json
import random
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_dataset, write_image
from patched import splits_of

from onelayer import TrainConfig, evaluate, train
from onelayer.analysis.evidence import evidence
from onelayer.analysis.explanation import explain
from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.progress import silent
from onelayer.data.protocols import split
from onelayer.errors import OnelayerError
from onelayer.live.frames import Frame, as_picture, evaluated, thorough
from onelayer.live.messages import MessageError, pack, read_bytes, read_text, unpack
from onelayer.live.outbox import MOST_WAITING, Outbox
from onelayer.live.session import Session, StoppedError
from onelayer.live.sources import Data, Room, unshuffled
from onelayer.live.teaching import Taught
from onelayer.training.state import Problem

EPOCHS = 6
SETTINGS = {"epochs": EPOCHS, "learning_rate": 0.01, "l2": 0.01}


def noisy_dataset(**options) -> Dataset:
    """Pictures of prototypes; every fifth has the name of the next class, so that there are mistakes."""
    dataset = toy_dataset(**options)
    labels, K = dataset.labels.copy(), len(dataset.class_names)
    labels[::5] = (labels[::5] + 1) % K
    return replace(dataset, labels=labels)


def noisy_splits(**options) -> Splits:
    return split(noisy_dataset(**options), SplitConfig())


class Page:
    """A page without a browser: it sends what is given, and keeps all that comes."""

    def __init__(self, splits: Splits, path) -> None:
        self.ready = threading.Event()
        self.taught = Taught(path)
        self.room = Room(splits, self.taught)
        self.session = Session(self.room, self.ready.set)
        self.run, self.history = 0, []
        self.seen: list[tuple[dict, dict]] = []

    def ask(self, type: str, arrays: dict | None = None, **fields: object) -> None:
        message = {"type": type, **fields}
        self.session.handle(read_bytes(pack(message, arrays)) if arrays else read_text(json.dumps(message)))

    def train(self, settings: dict | None = None, mistakes: tuple[str, ...] = (), data: str = "given") -> None:
        self.run, self.history = self.run + 1, []
        settings = SETTINGS if settings is None else settings
        self.ask("train", run=self.run, data=data, settings=settings, mistakes=list(mistakes))

    def until(self, *types: str) -> tuple[dict, dict]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            self.ready.clear()
            taken = self.session.outbox.take()
            if taken is None:
                self.ready.wait(0.5)
                continue
            message, arrays = (json.loads(taken), {}) if isinstance(taken, str) else unpack(taken)
            self.seen.append((message, arrays))
            if message["type"] == "epoch" and message["run"] == self.run:
                self.history += message["history"]
            if message["type"] in types and message.get("run", self.run) == self.run:
                return message, arrays
            assert message["type"] != "error", message
        raise AssertionError(f"none of {types} came")

    def trained(self, *arguments, **options) -> tuple[dict, dict]:
        """Train, and return the last frame."""
        self.train(*arguments, **options)
        ended, _ = self.until("ended")
        frames = [(m, a) for m, a in self.seen if m["type"] == "epoch" and m["run"] == self.run]
        assert frames, ended
        return frames[-1]


@pytest.fixture
def page(tmp_path):
    page = Page(noisy_splits(), tmp_path)
    yield page
    assert page.session.close(5.0)


@pytest.fixture(scope="module")
def result():
    return train(noisy_splits(), TrainConfig(**SETTINGS, keep="last", decay_every=0), report_test=False)


def image(path, size=(20, 12)):
    return {"file": np.frombuffer(write_image(path, size).read_bytes(), np.uint8)}


class TestOutbox:
    def test_only_the_newest_pictures_wait_and_no_number_is_lost(self, page):
        page.train({**SETTINGS, "epochs": 300})
        page.until("epoch")
        time.sleep(0.2)  # the page does not look; frames replace each other
        page.until("ended")
        assert [row[0] for row in page.history] == list(range(1, 301))
        assert sum(message["type"] == "epoch" for message, _ in page.seen) < 60

    def test_pictures_of_a_training_that_is_over_do_not_follow_the_next(self):
        outbox = Outbox(bool)
        outbox.put_frame(Frame(1, (), {"epoch": 3}, {}))
        outbox.put({"type": "started", "run": 2})
        assert json.loads(outbox.take())["type"] == "started"
        assert outbox.take() is None

    def test_figures_that_are_not_in_every_frame_are_not_lost(self):
        outbox = Outbox(bool)
        outbox.put_frame(Frame(1, (), {"epoch": 3, "details_epoch": 3}, {"confusion": np.eye(2, dtype=np.int32)}))
        outbox.put_frame(Frame(1, (), {"epoch": 4}, {"learnt": np.zeros(3, np.uint8)}))
        header, arrays = unpack(outbox.take())
        assert (header["epoch"], header["details_epoch"]) == (4, 3)
        assert set(arrays) == {"confusion", "learnt"}

    def test_a_page_that_never_reads_is_given_up(self):
        outbox = Outbox(bool)
        for _ in range(MOST_WAITING + 10):
            outbox.put({"type": "note"})
        assert outbox.full
        taken = 0
        while outbox.take():
            taken += 1
        assert taken == MOST_WAITING


class TestTraining:
    def test_curves_and_figures_are_those_of_training(self, page, result):
        frame, arrays = page.trained()
        started = next(message for message, _ in page.seen if message["type"] == "started")
        columns = {name: [row[place] for row in page.history] for place, name in enumerate(started["columns"])}
        for name, values in columns.items():
            np.testing.assert_array_equal(values, result.history[name])
        assert frame["epoch"] == frame["details_epoch"] == EPOCHS
        record = result.state.history[-1]
        assert frame["accuracy"]["validation"][0] == record.validation_accuracy
        assert frame["accuracy"]["validation"][1] < record.validation_accuracy < frame["accuracy"]["validation"][2]
        answers = evaluate(result.model, noisy_splits().validation)
        np.testing.assert_array_equal(arrays["confusion"], answers.confusion)
        np.testing.assert_array_equal(arrays["reliability"][0], answers.reliability(10).counts)
        W = result.model.layer.weights.astype(np.float64)
        assert frame["weights_norm"] == pytest.approx(np.linalg.norm(W))
        splits, layer = noisy_splits(), result.model.layer
        X = result.model.standardizer.for_training.transform(splits.train.rows(slice(None)).astype(np.float64))
        exact = replace(layer, weights=W, bias=layer.bias.astype(np.float64))
        dW, db = exact.gradients(X, splits.train.labels, SETTINGS["l2"])
        assert frame["gradient_norm"] == pytest.approx(np.sqrt((dW**2).sum() + (db**2).sum()), rel=1e-4)

    def test_templates_are_in_their_own_range_and_on_one_scale(self, page, result):
        frame, arrays = page.trained()
        W = result.model.layer.weights.astype(np.float64)
        assert arrays["learnt"].shape == (4, 4, 5, 3)
        T = W.T.reshape(4, 3, 4, 5).transpose(0, 2, 3, 1)
        for template, drawn in zip(T, arrays["learnt"].astype(int), strict=True):
            exact = 255 * (template - template.min()) / (template.max() - template.min())
            assert abs(exact - drawn).max() < 0.51
        V = (W.T / result.model.standardizer.scale).reshape(4, 3, 4, 5)
        limit, signed = frame["signed"]["limit"], arrays["signed"].astype(int)
        constant = np.zeros(60, bool)
        constant[7] = True
        assert (signed.reshape(4, -1)[:, constant] == 0).all()
        shown = (signed - 128) / 127 * limit
        inside = ~constant.reshape(3, 4, 5) & (abs(V) < limit)
        assert inside.mean() > 0.8
        assert abs(shown - V)[inside].max() < limit / 127
        assert "weights" not in arrays  # they began at 0

    def test_random_initial_weights_have_both_views(self, page):
        _, arrays = page.trained({**SETTINGS, "init_std": 0.1})
        assert not np.array_equal(arrays["learnt"], arrays["weights"])

    def test_no_test_row_is_scored(self, page, monkeypatch):
        seen = []
        whole = Problem.open

        def watched(self, *arguments):
            backend = whole(self, *arguments)
            evaluate = backend.evaluate
            backend.evaluate = lambda layer, split, c: seen.append(split.name) or evaluate(layer, split, c)
            return backend

        monkeypatch.setattr(Problem, "open", watched)
        page.trained()
        assert set(seen) == {"train", "validation"}

    def test_a_new_setting_cancels_the_training_before(self, page):
        page.train({**SETTINGS, "epochs": 1000, "batch_size": 1})
        page.until("epoch")
        first = page.run
        began = time.monotonic()
        page.train()
        page.until("started")
        assert time.monotonic() - began < 1.0
        page.until("ended")
        why = {message["run"]: message["why"] for message, _ in page.seen if message["type"] == "ended"}
        assert why == {first: "cancelled", page.run: f"all {EPOCHS} epochs are done"}
        runs = [message["run"] for message, _ in page.seen if message["type"] in ("epoch", "started", "ended")]
        assert runs == sorted(runs)

    def test_a_cancel_is_told_at_once_and_the_last_frame_follows(self, page, monkeypatch):
        told = threading.Event()
        monkeypatch.setattr("onelayer.live.session.thorough", lambda *of: told.wait(20) and thorough(*of))
        page.train({**SETTINGS, "epochs": 1000, "batch_size": 1})
        page.until("epoch")
        page.ask("cancel")
        ended, _ = page.until("ended")
        assert ended["why"] == "cancelled"
        told.set()
        while page.until("epoch")[0].get("details_epoch") != ended["epoch"]:
            pass
        assert [row[0] for row in page.history] == list(range(1, ended["epoch"] + 1))

    def test_of_many_settings_only_the_last_is_trained_to_its_end(self, page):
        for seed in range(40):
            page.train({**SETTINGS, "epochs": 200, "seed": seed})
        page.until("ended")
        assert sum(message["type"] == "started" for message, _ in page.seen) < 40
        assert page.history[-1][0] == 200

    def test_the_command_does_the_same(self, page):
        page.trained({**SETTINGS, "flip": True})
        started = next(message for message, _ in page.seen if message["type"] == "started")
        assert started["command"] == (
            "onelayer train --data '' --learning-rate 0.01 --l2 0.01 --epochs 6 --keep last --flip --decay-every 0"
        )

    def test_auto_ends_where_the_command_ends(self, page):
        settings = {"epochs": "auto", "decay_every": "auto", "learning_rate": 0.05}
        page.trained(settings)
        result = train(noisy_splits(), TrainConfig(**settings, keep="last"), report_test=False)
        started, ended = ([m for m, _ in page.seen if m["type"] == kind][-1] for kind in ("started", "ended"))
        assert started["command"] == "onelayer train --data '' --learning-rate 0.05 --keep last"
        assert (ended["why"], ended["epoch"]) == (result.ended, result.state.epoch)
        assert "has stopped falling" in result.ended
        losses = [row[started["columns"].index("validation_loss")] for row in page.history]
        np.testing.assert_array_equal(losses, result.history["validation_loss"])

    def test_steps_that_are_too_long_end_it_with_a_reason(self, page):
        page.train({**SETTINGS, "learning_rate": 10.0, "l2": 10.0, "epochs": 1000})
        ended, _ = page.until("ended")
        assert "the steps are too long" in ended["why"]

    def test_the_best_for_this_lambda_is_that_of_the_converged_solver(self, page):
        page.trained()
        best, _ = page.until("best")
        found = train(noisy_splits(), TrainConfig(solver="converged", l2=0.01), report_test=False)
        assert best["cost"] == pytest.approx(found.state.history[-1].train_cost, rel=1e-3)
        assert best["cost"] < page.history[-1][3]
        page.trained()
        began = time.monotonic()
        page.until("best")  # it is known by now
        assert time.monotonic() - began < 0.4

    def test_the_converged_solver_is_shown_like_the_other(self, page):
        frame, _ = page.trained({"solver": "converged", "l2": 0.1})
        assert frame["rate"] is None
        assert 0 < frame["gap"] <= 1e-4 * page.history[-1][3]
        assert frame["passes"] > 1
        assert all(row[1] is None for row in page.history)

    def test_a_measured_learning_rate_is_measured_once(self, page, monkeypatch):
        page.trained({"epochs": 2})
        monkeypatch.setattr("onelayer.training.state.safe_step", None)
        page.trained({"epochs": 2, "seed": 5})
        started = [message for message, _ in page.seen if message["type"] == "started"]
        assert started[0]["rate"] == started[1]["rate"] > 0

    def test_features_that_are_computed_are_cancelled_too(self, page, monkeypatch):
        computing = threading.Event()

        def slow(*_, progress, **__):
            while True:
                computing.set()
                progress(1, 100)
                time.sleep(0.001)

        with monkeypatch.context() as patch:
            patch.setattr(Problem, "of", slow)
            page.train({**SETTINGS, "flip": True})
            assert computing.wait(5)
            page.ask("cancel")
            assert page.until("ended")[0]["why"] == "cancelled"
        page.trained()

    def test_an_error_is_a_line_and_the_page_goes_on(self, page):
        page.train(data="taught")
        error, _ = page.until("error")
        assert (error["about"], error["run"]) == ("train", page.run)
        assert "\n" not in error["message"]
        page.trained()


class TestMistakes:
    def test_a_mistake_has_no_command_and_is_not_kept(self, page):
        page.trained(mistakes=("no-shuffle",))
        started = next(message for message, _ in page.seen if message["type"] == "started")
        assert started["command"] == ""
        page.ask("keep", name="x")
        error, _ = page.until("error")
        assert "switch the mistake off" in error["message"]

    def test_initial_weights_are_of_0_1(self, page):
        first, _ = page.trained({**SETTINGS, "learning_rate": 1e-5, "l2": 0.0}, ("init-0.1",))
        assert first["weights_norm"] == pytest.approx(0.1 * np.sqrt(59 * 4), rel=0.2)

    def test_rows_come_in_the_order_of_the_source(self):
        splits, order = noisy_splits(), []

        class Watched:
            def run_epoch(self, train, *_):
                order.append(train.indices)

        backwards = replace(splits.train, indices=splits.train.indices[::-1])
        unshuffled(Watched, splits.train)().run_epoch(backwards, 0.1, None, bool)
        np.testing.assert_array_equal(order[0], splits.train.indices)

    def test_without_shuffling_every_seed_is_alike(self, page):
        page.trained({**SETTINGS, "seed": 1}, ("no-shuffle",))
        first = page.history
        page.trained({**SETTINGS, "seed": 2}, ("no-shuffle",))
        assert page.history == first
        page.trained({**SETTINGS, "seed": 2})
        assert page.history != first

    def test_pixels_are_not_standardised(self, page):
        page.trained({**SETTINGS, "learning_rate": 1e-4, "l2": 0.0, "epochs": 1, "batch_size": 10_000}, ("raw-pixels",))
        splits = noisy_splits()
        R = splits.train.rows(slice(None)).astype(np.float64)
        shares = np.bincount(splits.train.labels) / len(splits.train)
        P = np.eye(4)[splits.train.labels]
        W = 1e-4 * R.T @ (P - shares) / len(R)
        W[7] = 0
        frame = page.seen[-2][0]
        assert frame["weights_norm"] == pytest.approx(np.linalg.norm(W), rel=1e-3)

    def test_test_figures_are_those_of_training_rows(self, page):
        frame, _ = page.trained(mistakes=("test-on-train",))
        page.ask("open-test")
        test, _ = page.until("test")
        assert test["accuracy"][0] == pytest.approx(frame["accuracy"]["train"][0])
        assert (test["of_train"], test["times_read"]) == (True, 0)


class TestQuestions:
    def test_a_cell_has_its_images(self, page, result):
        page.trained()
        answers = evaluate(result.model, noisy_splits().validation)
        true, predicted = np.argwhere(answers.confusion * (1 - np.eye(4)))[0]
        page.ask("cell", true=int(true), predicted=int(predicted), split="validation")
        found, arrays = page.until("images")
        assert found["total"] == len(found["rows"]) == answers.confusion[true, predicted] > 0
        row = found["rows"][0]["row"]
        raw = noisy_dataset().rows[row].reshape(3, 4, 5).transpose(1, 2, 0)
        np.testing.assert_array_equal(arrays["images"][0], raw)
        assert noisy_dataset().labels[row] == true

    def test_mistakes_are_the_most_confident_first(self, page, result):
        page.trained()
        page.ask("mistakes", split="validation")
        found, _ = page.until("images")
        answers = evaluate(result.model, noisy_splits().validation)
        worst = noisy_splits().validation.indices[answers.worst_mistakes(40)]
        assert [row["row"] for row in found["rows"]] == worst.tolist()
        assert len(worst) > 2

    def test_test_rows_are_closed_until_they_are_opened_and_readings_are_counted(self, page, result):
        page.trained()
        page.ask("mistakes", split="test")
        assert "closed" in page.until("error")[0]["message"]
        for times in (1, 2):
            page.ask("open-test")
            test, arrays = page.until("test")
            assert test["times_read"] == times
        answers = evaluate(result.model, noisy_splits().test)
        assert test["accuracy"][0] == answers.accuracy
        assert test["loss"] == pytest.approx(answers.loss, rel=1e-5)
        np.testing.assert_array_equal(arrays["confusion"], answers.confusion)
        page.ask("mistakes", split="test")
        assert page.until("images")[0]["total"] == (~answers.right).sum()
        page.trained()
        page.ask("mistakes", split="test")
        assert "closed" in page.until("error")[0]["message"]
        assert page.room.describe()[0]["times_read"] == 2

    def test_an_image_is_answered_at_once_and_after_each_epoch_to_come(self, page, result, tmp_path):
        page.trained()
        page.ask("image", image(tmp_path / "a.png"), id=3)
        answer, arrays = page.until("answer")
        assert "squeezed" in answer["note"] or not answer["note"]
        seen = arrays["seen"].transpose(2, 0, 1).reshape(1, -1)
        np.testing.assert_allclose(answer["probabilities"], result.model.probabilities(seen)[0], rtol=1e-5)
        page.train({**SETTINGS, "epochs": 30})
        page.until("ended")
        again = [message for message, _ in page.seen if message["type"] == "answer" and message["run"] == page.run]
        assert again
        assert {message["id"] for message in again} == {3}
        assert "seen" not in again[-1]

    def test_an_image_that_comes_before_the_first_epoch_is_answered_after_it(self, page, tmp_path):
        page.ask("image", image(tmp_path / "a.png"), id=1)
        page.train()
        assert page.until("answer")[0]["epoch"] >= 1

    def test_contributions_sum_with_the_bias_to_the_logits(self, page, result, tmp_path):
        page.trained()
        page.ask("image", image(tmp_path / "a.png"), id=1)
        _, arrays = page.until("answer")
        page.ask("explain", id=1)
        told, parts = page.until("contributions")
        assert parts["contributions"].shape == (4, 4, 5)
        total = parts["contributions"].sum(axis=(1, 2), dtype=np.float64) + told["bias"]
        np.testing.assert_allclose(total, told["logits"], atol=1e-5)
        exact = explain(result.model, arrays["seen"].transpose(2, 0, 1).ravel(), 4)
        assert told["classes"] == exact.classes.tolist()
        np.testing.assert_allclose(told["logits"], exact.logits)
        page.ask("explain", id=2)
        assert "no such image" in page.until("error")[0]["message"]

    @pytest.mark.parametrize("content", [b"GIF89a", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
    def test_what_is_not_an_image_is_refused_in_a_line(self, page, content):
        page.trained()
        page.ask("image", {"file": np.frombuffer(content, np.uint8)}, id=1)
        error, _ = page.until("error")
        assert (error["about"], error["id"]) == ("image", 1)
        assert "\n" not in error["message"]

    def test_a_bomb_is_refused(self, page):
        head = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
        content = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big")
        page.trained()
        page.ask(
            "image", {"file": np.frombuffer(content + (1).to_bytes(4, "big") + b"IDATx" + b"\0" * 20, np.uint8)}, id=1
        )
        assert "megapixels" in page.until("error")[0]["message"]

    def test_nothing_is_answered_before_a_training(self, page):
        for question in ("mistakes", "open-test", "keep"):
            page.ask(question, **({"split": "validation"} if question == "mistakes" else {}))
            assert "nothing was trained" in page.until("error")[0]["message"]


class TestOtherData:
    def test_vectors_have_the_strongest_weights_in_place_of_templates(self, tmp_path):
        page = Page(noisy_splits(image_shape=None, dtype="float32"), tmp_path)
        frame, arrays = page.trained({"epochs": 5})
        assert set(arrays) == {"confusion", "reliability"}
        assert len(frame["strongest"]) == 4
        page.ask("mistakes", split="validation")
        found, images = page.until("images")
        assert found["rows"]
        assert not images
        page.ask("image", image(tmp_path / "a.png"), id=1)
        assert "not images" in page.until("error")[0]["message"]
        page.session.close(5.0)

    def test_patch_features_have_the_patches_that_speak_for_and_against_classes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("onelayer.features.filters.DRAWN", 5000)
        splits = splits_of((3, 16, 14), 60)
        page = Page(splits, tmp_path)
        settings = {"epochs": 3, "learning_rate": 0.01, "features": "patches:16", "init_std": 0.1}
        frame, arrays = page.trained(settings)
        config = TrainConfig(**settings, keep="last", decay_every=0)
        result = train(splits, config, report_test=False)
        exact = evidence(result.model.features, result.learnt, splits.train, 3)
        assert "strongest" not in frame
        for told, sides in zip(frame["speaking"], exact, strict=True):
            for items, side in zip(told, sides, strict=True):
                for item, one in zip(items, side, strict=True):
                    pixels = arrays["examples"][item["example"]]
                    np.testing.assert_array_equal(pixels, one.example.image.transpose(1, 2, 0))
                    y, x, k = item["row"], item["column"], item["size"]
                    assert (y, x, k) == (one.example.row, one.example.column, one.filter.shape[1])
                    assert pixels[y : y + k, x : x + k].shape == (k, k, 3)
                    assert splits.train.labels[
                        (splits.train.rows(slice(None)) == one.example.image.ravel()).all(1)
                    ] == [item["label"]]
                    np.testing.assert_array_equal(item["windows"], one.weights)
                    down, across = item["window"]
                    assert item["weight"] == item["windows"][down][across] == one.weight
        largest = max(abs(one.weight) for sides in exact for side in sides for one in side)
        assert frame["speaking_limit"] == pytest.approx(largest, rel=0.05)
        assert frame["mirrored"]
        page.session.close(5.0)

    def test_two_hundred_classes(self, tmp_path):
        page = Page(noisy_splits(n=2000, K=200), tmp_path)
        _, arrays = page.trained({"epochs": 3})
        assert arrays["confusion"].shape == (200, 200)
        assert arrays["learnt"].shape == (200, 4, 5, 3)
        page.session.close(5.0)

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
    def test_answers_are_those_of_the_model_on_every_backend(self, dtype, tolerance):
        splits = noisy_splits()
        config = TrainConfig(epochs=3, dtype=dtype)
        problem = Problem.of(splits, config)
        layer = train(splits, config).model.layer
        found, exact = evaluated(problem, layer, splits.validation), evaluate(problem.model(layer), splits.validation)
        np.testing.assert_allclose(found.probabilities, exact.probabilities, atol=tolerance)
        assert found.loss == pytest.approx(exact.loss, rel=tolerance)

    def test_a_picture_of_any_channels_is_grey_or_coloured(self):
        for channels in (1, 2, 3):
            drawn = as_picture(np.linspace(-1, 1, channels * 6).reshape(channels, 2, 3))
            assert drawn.shape == (2, 3, 3)
            assert (drawn.min(), drawn.max()) == (0, 255) or channels == 2


class TestTeaching:
    def teach(self, page, op, name, arrays=None, /, **fields):
        page.ask("teach", arrays, op=op, **{"class": name}, **fields)
        return page.until("taught", "error")[0]

    def test_taught_images_are_a_folder_of_classes_that_is_trained_on(self, page, tmp_path):
        for name in ("cup", "hand"):
            assert self.teach(page, "add-class", name)["type"] == "taught"
        for id in range(16):
            pixels = np.full((6, 7, 4), 255, np.uint8)
            pixels[..., :3] = 40 if id % 2 else 200
            pixels[0, 0, 0] = id
            arrays = {"pixels": pixels} if id else image(tmp_path / "a.png", (7, 6))
            told = self.teach(page, "add-image", ("cup", "hand")[id % 2], arrays, id=id)
        assert told["count"] == 8
        folder = tmp_path / "taught-1"
        assert sorted(path.name for path in folder.iterdir()) == ["cup", "hand"]
        assert len([*folder.glob("*/*.png")]) == 16
        frame, arrays = page.trained({"epochs": 20}, data="taught")
        assert arrays["learnt"].shape == (2, 6, 7, 3)
        assert frame["accuracy"]["train"][0] > 0.8
        started = next(message for message, _ in page.seen if message["type"] == "started")
        assert started["data"]["classes"] == ["cup", "hand"]
        assert str(folder) in started["command"]
        self.teach(page, "rename-class", "cup", name="mug")
        told = self.teach(page, "remove-image", "mug", id=2)
        assert [one["count"] for one in told["classes"]] == [7, 8]
        page.trained({"epochs": 2}, data="taught")
        started = [message for message, _ in page.seen if message["type"] == "started"][-1]
        assert started["data"]["classes"] == ["hand", "mug"]
        self.teach(page, "remove-class", "mug")
        assert [path.name for path in folder.iterdir()] == ["hand"]
        page.train(data="taught")
        assert "two classes" in page.until("error")[0]["message"]

    @pytest.mark.parametrize(
        "name",
        [
            "..",
            ".",
            "",
            " ",
            "../x",
            "a/b",
            "a\\b",
            "/etc",
            ".ssh",
            "a\0b",
            "a\nb",
            "C:",
            "x" * 61,
            "test",
            "Train",
            "a.",
        ],
    )
    def test_names_that_are_not_a_folder_of_a_class_are_refused(self, page, tmp_path, name):
        assert self.teach(page, "add-class", "good")["type"] == "taught"
        for op, fields in (("add-class", {}), ("rename-class", {"name": name})):
            try:
                told = self.teach(page, op, name if op == "add-class" else "good", **fields)
            except MessageError:  # it is too long for a message
                continue
            assert told["type"] == "error", (op, name)
        assert [path.name for path in (tmp_path / "taught-1").iterdir()] == ["good"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["taught-1"]

    def test_what_is_not_an_image_or_twice_the_same_is_refused(self, page, tmp_path):
        self.teach(page, "add-class", "a")
        bad = {"file": np.frombuffer(b"#!/bin/sh\nrm -r ~", np.uint8)}
        assert "not an image" in self.teach(page, "add-image", "a", bad, id=0)["message"]
        good = image(tmp_path / "a.png")
        assert self.teach(page, "add-image", "a", good, id=0)["type"] == "taught"
        assert "already" in self.teach(page, "add-image", "a", good, id=0)["message"]
        assert "no class" in self.teach(page, "add-image", "b", good, id=1)["message"]
        assert "already" in self.teach(page, "add-class", "A")["message"]

    def test_a_folder_that_cannot_be_written_is_a_line(self, tmp_path):
        (tmp_path / "file").write_text("")
        page = Page(noisy_splits(), tmp_path / "file")
        error = self.teach(page, "add-class", "a")
        assert "Not a directory; choose another folder" in error["message"]
        assert page.session.close(5.0)

    def test_limits(self, page, tmp_path, monkeypatch):
        monkeypatch.setattr("onelayer.live.teaching.MOST_CLASSES", 1)
        monkeypatch.setattr("onelayer.live.teaching.MOST_IMAGES", 1)
        self.teach(page, "add-class", "a")
        assert "the most" in self.teach(page, "add-class", "b")["message"]
        good = image(tmp_path / "a.png")
        self.teach(page, "add-image", "a", good, id=0)
        assert "at most" in self.teach(page, "add-image", "a", good, id=1)["message"]

    def test_an_earlier_folder_is_left_alone_and_an_empty_one_is_removed(self, tmp_path):
        (tmp_path / "taught-1").mkdir()
        taught = Taught(tmp_path)
        taught.change(read_text('{"type": "teach", "op": "add-class", "class": "a"}'))
        assert (tmp_path / "taught-2" / "a").is_dir()
        taught.close()
        assert [path.name for path in tmp_path.iterdir()] == ["taught-1"]


def mutated(rng: random.Random, seeds: list[str | bytes]) -> str | bytes:
    """A message of the protocol with some of it changed."""
    seed = rng.choice(seeds)
    data = bytearray(seed if isinstance(seed, bytes) else seed.encode())
    for _ in range(rng.choice((0, 0, 1, 1, 2, 8))):
        place = rng.randrange(len(data))
        change = rng.randrange(4)
        if change == 0:
            data[place] = rng.randrange(256)
        elif change == 1:
            del data[place : place + rng.randrange(1, 9)]
        elif change == 2:
            data[place:place] = rng.choice((b'"', b"{", b"[", b"-", b"0", b"1e999", b"null", b"..", b"/", b"\xff"))
        else:
            data[place : place + 1] = data[place : place + 1] * rng.randrange(1, 40)
        if not data:
            break
    return bytes(data) if isinstance(seed, bytes) else data.decode("utf-8", "replace")


def test_ten_thousand_messages_leave_it_whole(page, tmp_path, monkeypatch):
    """No traceback, no hang, nothing written outside, and a bounded number of messages that wait."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("onelayer.live.keeping.keep", lambda *_: {})
    train = {
        "type": "train",
        "run": 1,
        "data": "given",
        "settings": {"epochs": 1, "l2": 0.1},
        "mistakes": ["no-shuffle"],
    }
    texts = [
        {"type": "hello", "token": "x"},
        train,
        {"type": "cancel"},
        {"type": "cell", "true": 1, "predicted": 2, "split": "validation"},
        {"type": "mistakes", "split": "test"},
        {"type": "open-test"},
        {"type": "explain", "id": 1},
        {"type": "teach", "op": "add-class", "class": "a"},
        {"type": "teach", "op": "remove-class", "class": "a"},
        {"type": "teach", "op": "rename-class", "class": "a", "name": "b"},
        {"type": "keep", "name": "x"},
    ]
    frames = [
        pack({"type": "image", "id": 1}, image(tmp_path / "a.png")),
        pack({"type": "image", "id": 1}, {"pixels": np.zeros((3, 3, 4), np.uint8)}),
        pack({"type": "teach", "op": "add-image", "class": "a", "id": 1}, {"pixels": np.zeros((3, 3, 4), np.uint8)}),
    ]
    (tmp_path / "a.png").unlink()
    seeds, rng, handled = [*map(json.dumps, texts), *frames], random.Random(0), 0
    page.trained()
    for _ in range(10_000):
        message = mutated(rng, seeds)
        try:
            read = read_text(message) if isinstance(message, str) else read_bytes(message)
        except MessageError as error:
            assert "\n" not in str(error)
            continue
        handled += 1
        if read.type != "hello":
            while page.session.is_full:
                time.sleep(0.001)
            page.session.handle(read)
        while (taken := page.session.outbox.take()) is not None:
            assert "onelayer made a mistake" not in str(taken), taken
    assert handled > 3000
    assert not page.session.outbox.full
    page.ask("cell", true=12345, predicted=0, split="validation")
    while page.until("images", "error")[0].get("true") != 12345:
        pass
    page.trained()
    assert {path.name.rstrip("0123456789") for path in tmp_path.iterdir()} <= {"taught-"}


def test_two_pages_share_data_and_not_trainings(page, tmp_path):
    other = Page(noisy_splits(), tmp_path)
    other.room = page.room
    other.session.close(5.0)
    other.session = Session(page.room, other.ready.set)
    page.train({**SETTINGS, "seed": 1})
    other.train({**SETTINGS, "seed": 2})
    assert page.until("ended")[0]["epoch"] == other.until("ended")[0]["epoch"] == EPOCHS
    assert page.history != other.history
    page.ask("open-test")
    page.until("test")
    other.ask("open-test")
    assert other.until("test")[0]["times_read"] == 2
    other.session.close(5.0)


def test_a_set_that_is_read_holds_up_no_page_that_wants_another(tmp_path, monkeypatch):
    begun, going_on, room = threading.Event(), threading.Event(), Room(noisy_splits(), Taught(tmp_path))

    def slowly(*_, progress):
        begun.set()
        assert going_on.wait(20)
        return noisy_splits()

    def stop(*_):
        raise StoppedError

    monkeypatch.setattr("onelayer.live.sources.load_splits", slowly)
    with ThreadPoolExecutor() as pool:
        digits = pool.submit(room.get, "digits", silent)
        assert begun.wait(20)
        try:
            assert pool.submit(room.get, "given", silent).result(10).name == "given"
            with pytest.raises(StoppedError):
                pool.submit(room.get, "digits", stop).result(10)
        finally:
            going_on.set()
        assert digits.result(20) is room.get("digits", stop)


def test_features_and_flips_are_computed_once(tmp_path):
    data = Data("given", noisy_splits())
    config = TrainConfig(epochs=1)
    first = data.problem(config, frozenset(), lambda *_: None, bool)
    second = data.problem(replace(config, seed=1, l2=0.1), frozenset(), lambda *_: None, bool)
    assert first.standardizer is second.standardizer
    assert second.config.l2 == 0.1
    flipped = data.problem(replace(config, flip=True), frozenset(), lambda *_: None, bool)
    assert flipped.standardizer is not first.standardizer
    with pytest.raises(OnelayerError, match="flip needs images"):
        vectors = Data("given", noisy_splits(image_shape=None))
        vectors.problem(replace(config, flip=True), frozenset(), lambda *_: None, bool)
