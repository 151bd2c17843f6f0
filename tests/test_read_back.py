"""Models, checkpoints and tables are read back as they were written; damaged and tampered files are refused."""

import hashlib
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers import RUN_CONFIG, coursework, finished_run, tampered, toy_splits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from onelayer.config import SplitConfig
from onelayer.errors import ModelFileError, RunError
from onelayer.experiments.study import read_study
from onelayer.experiments.sweep import Sweep, SweepPlan
from onelayer.features.standardizer import Standardizer
from onelayer.files import write_mark
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.model import Model
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.history import HISTORY_COLUMNS, EpochRecord
from onelayer.training.state import TrainingState
from onelayer.training.train import train


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({"weights": np.full((60, 4), np.nan, np.float32)}, {}, "weights holds a number that is not finite"),
        ({"weights": np.zeros((61, 4), np.float32)}, {}, "mean and scale do not fit weights for 61 features"),
        ({"bias": np.zeros(5, np.float32)}, {}, r"weights \(60, 4\) and bias \(5,\) do not fit each other"),
        ({"weights": np.zeros(60, np.float32)}, {}, "do not fit each other"),
        ({"weights": np.zeros((60, 4), np.int32)}, {}, "weights is int32, expected float32 or float64"),
        ({"scale": np.zeros(60)}, {}, "mean and scale do not fit"),
        ({"extra": np.zeros(2)}, {}, "expected "),
        ({}, {"version": "2"}, "format version 2 is not the one that this onelayer reads, 1; upgrade it"),
        ({}, {"version": "9" * 5000}, "format version 9{20} is not"),
        ({}, {"format": "onelayer-checkpoint"}, "this is not a model of onelayer"),
        ({}, {"class_names": '["a", "b"]'}, "the class names are not 4 different words"),
        ({}, {"class_names": "[1, 2, 3, 4]"}, "the class names are not 4 different words"),
        ({}, {"class_names": '["a", "b", "c", "c"]'}, "the class names are not 4 different words"),
        ({}, {"class_names": '["a", "b", "c", "\\u001b[31m"]'}, "the class names are not 4 different words"),
        ({}, {"class_names": '"abcd"'}, "the class names are not 4 different words"),
        ({}, {"class_names": "{"}, "the metadata is damaged"),
        ({}, {"class_names": "[" * 100_000}, "the metadata is damaged"),
        ({}, {"image_shape": "[3, 4]"}, r"rows of 60 numbers are not images of the shape \[3, 4\]"),
        ({}, {"image_shape": "[3, 4, 6]"}, r"rows of 60 numbers are not images of the shape \[3, 4, 6\]"),
        ({}, {"image_shape": "[3, 4, 5, 1]"}, "are not images of the shape"),
        ({}, {"image_shape": "[Infinity, 1, 1]"}, "are not images of the shape"),
        ({}, {"image_shape": "0"}, "are not images of the shape"),
        ({}, {"loss": "hinge"}, "needs the loss 'hinge'; this onelayer has softmax, sigmoid"),
    ],
)
def test_a_tampered_model_is_refused(tmp_path, tensors, metadata, words):
    run, _ = finished_run(tmp_path / "run")
    path = tampered(run, run.model_path, tensors, metadata)
    with pytest.raises(ModelFileError, match=words) as caught:
        Model.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": ("a", "b", "c", "c")}, "the class names are not 4 different words; rename them"),
        ({"class_names": ("a", "b", "c", "d\te")}, "the class names are not 4 different words"),
        ({"class_names": ("a", "b", "c")}, "the class names are not 4 different words"),
        ({"image_shape": (3, 4, 6)}, r"rows of 60 numbers are not images of the shape \[3, 4, 6\]"),
        ({"standardizer": Standardizer(np.zeros(60), np.zeros(60))}, "mean and scale do not fit"),
        ({"standardizer": Standardizer(np.full(60, np.nan), np.ones(60))}, "mean holds a number that is not finite"),
        ({"standardizer": Standardizer(np.zeros(60, int), np.ones(60))}, "mean is int64, expected float32 or float64"),
    ],
)
def test_what_load_refuses_is_not_written(changes, words):
    model = replace(train(toy_splits(), replace(RUN_CONFIG, epochs=0)).model, **changes)
    with pytest.raises(ModelFileError, match=f"this model cannot be saved: {words}"):
        model.to_bytes()


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        ({}, {"config": "{}", "rng_state": '{"bit_generator": "MT19937"}'}, "damaged, or written by a newer onelayer"),
        ({}, {"config": '{"learning_rate": -1}'}, "damaged, or written by a newer onelayer"),
        ({}, {"config": '{"nesterov": true}'}, "damaged, or written by a newer onelayer"),
        ({}, {"split": "[]"}, "damaged, or written by a newer onelayer"),
        ({}, {"config": "[" * 100_000}, "damaged, or written by a newer onelayer"),
        ({"history": np.zeros((2, 3))}, {}, "damaged, or written by a newer onelayer"),
        ({"history": np.zeros((2, 10))}, {}, "does not count its epochs from 1"),
        ({"weights": np.zeros((60, 4))}, {}, "do not fit each other"),
        ({"weights": np.zeros((60, 4)), "bias": np.zeros(4)}, {}, "weights are float64, the settings say float32"),
    ],
)
def test_a_tampered_checkpoint_is_refused(tmp_path, tensors, metadata, words):
    run, _ = finished_run(tmp_path / "run")
    tampered(run, run.checkpoint_path, tensors, metadata)
    with pytest.raises(ModelFileError, match=words):
        run.read_checkpoint()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files that other commands read back, with what reads each: a table of settings, numbers or a plan."""
    folder = tmp_path_factory.mktemp("written")
    run, _ = finished_run(folder / "run")
    sweep = Sweep.create(folder / "sweep", SweepPlan((RUN_CONFIG,), (1, 2), SplitConfig(), "toy", "0" * 64))
    content = {"name": "coursework", "seeds": [1, 2, 3], "findings": []}
    write_mark(folder / "study.json", "study", content)
    return {
        run.model_path: lambda: run.model,
        run.checkpoint_path: run.read_checkpoint,
        run.summary_path: lambda: run.summary,
        sweep.path / "sweep.json": lambda: Sweep.open(sweep.path),
        folder / "study.json": lambda: read_study(folder),
    }


def holds_the_same(bad, good):
    """Tell whether two tables have the same content: 1e-05 is 1E-05, and a 17th digit may not change its number."""
    try:
        return json.loads(bad) == json.loads(good)
    except ValueError:
        return False


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_is_cut_off_or_flipped_is_refused(written, data):
    path = data.draw(st.sampled_from(sorted(written)))
    good = path.read_bytes()
    bad = bytearray(good)
    # More often near the beginning, where the header is; a last line break more or less is not damage.
    place = data.draw(st.integers(0, len(bad) - 2) | st.integers(0, min(len(bad) - 2, 1500)))
    if data.draw(st.booleans()):
        del bad[place:]
    else:
        bad[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        path.write_bytes(bad)
        if path.suffix == ".json" and holds_the_same(bad, good):
            written[path]()
            return
        with pytest.raises((ModelFileError, RunError), match=re.escape(str(path))) as caught:
            written[path]()
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(good)
        written[path]()


def test_a_flipped_bit_of_the_word_checksum_is_refused(written):
    """Without its checksum a file would pass for one of the time before checksums."""
    for path, read in written.items():
        good = path.read_bytes()
        place = good.index(b'"checksum"') + 1
        for bit in range(8 * len("checksum")):
            bad = bytearray(good)
            bad[place + bit // 8] ^= 1 << bit % 8
            path.write_bytes(bad)
            with pytest.raises((ModelFileError, RunError)):
                read()
        path.write_bytes(good)


def test_files_of_the_time_before_checksums_are_read(written):
    for path, read in written.items():
        good = path.read_bytes()
        before = read()
        if path.suffix == ".json":
            content = json.loads(good)
            del content["checksum"]
            path.write_text(json.dumps(content))
        else:
            with safe_open(path, "numpy") as file:
                metadata = {name: word for name, word in file.metadata().items() if name != "checksum"}
            save_file(load_file(path), path, metadata)
        after = read()
        assert after == before if path.suffix == ".json" else after is not None
        path.write_bytes(good)


def test_a_table_may_have_another_layout_but_no_other_content(written):
    for path, read in written.items():
        if path.suffix != ".json":
            continue
        good = path.read_bytes()
        before, content = read(), json.loads(good)
        path.write_text(json.dumps(dict(reversed(content.items()))))
        assert read() == before
        path.write_text(json.dumps(content | {"seeds": [7, 8, 9]}, indent=2))
        with pytest.raises(RunError, match="its checksum is wrong; if you edited it, delete its line checksum"):
            read()
        path.write_bytes(good)


NUMBERS = {
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "float64": st.floats(allow_nan=False, allow_infinity=False),
}


WORDS = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)


@st.composite
def models(draw) -> Model:
    shape = draw(st.none() | st.tuples(*[st.integers(1, 3)] * 3))
    d, K = math.prod(shape) if shape else draw(st.integers(1, 5)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(sorted(NUMBERS)))
    weights, bias = (draw(arrays(dtype, size, elements=NUMBERS[dtype])) for size in ((d, K), (K,)))
    layer = SoftmaxLayer(np.asfortranarray(weights), bias, LOSSES[draw(st.sampled_from(sorted(LOSSES)))])
    mean = draw(arrays(np.float64, (d,), elements=NUMBERS["float64"]))
    scale = draw(arrays(np.float64, (d,), elements=st.floats(1e-300, 1e300)))
    names = draw(st.lists(WORDS, min_size=K, max_size=K, unique=True))
    constant = (scale == 1) & ~layer.weights.any(axis=1)
    return Model(layer, Standardizer(mean, scale, constant), tuple(names), shape)


@settings(max_examples=100, deadline=None)
@given(model=models())
def test_any_model_is_read_back_the_same(tmp_path_factory, model):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(model.to_bytes())
    found = Model.load(path)
    for name in ("weights", "bias"):
        written, read = getattr(model.layer, name), getattr(found.layer, name)
        assert (read.dtype, read.shape, read.tobytes()) == (written.dtype, written.shape, written.tobytes())
        assert read.flags.writeable
    assert found.standardizer.mean.tobytes() == model.standardizer.mean.tobytes()
    assert found.standardizer.scale.tobytes() == model.standardizer.scale.tobytes()
    assert (found.class_names, found.image_shape) == (model.class_names, model.image_shape)
    assert found.layer.loss is model.layer.loss
    assert found.to_bytes() == model.to_bytes()


def test_the_checksum_is_the_files_with_zeros_in_its_place(written):
    for path in written:
        if path.suffix == ".safetensors":
            content = path.read_bytes()
            stated = re.search(rb'"checksum":"([0-9a-f]{64})"', content)[1]
            assert hashlib.sha256(content.replace(stated, b"0" * 64)).hexdigest() == stated.decode()


@settings(max_examples=100, deadline=None)
@given(
    learning_rate=st.floats(1e-300, 1e300),
    l2=st.floats(0, 1e300),
    seed=st.integers(0, 2**63),
    source=st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    numbers=st.lists(st.floats(0, 1e300), min_size=1, max_size=3),
)
def test_any_plan_and_history_are_read_back_the_same(tmp_path_factory, learning_rate, l2, seed, source, numbers):
    folder = tmp_path_factory.mktemp("any")
    config = coursework(learning_rate=learning_rate, l2=l2, seed=seed, backend="numpy")
    plan = Plan(config, SplitConfig(split_seed=seed), source, "f" * 64)
    state = TrainingState.initial(3, 2, config)
    history = tuple(
        EpochRecord(epoch, *[number] * (len(HISTORY_COLUMNS) - 3), None if epoch % 2 else 0.5, number)
        for epoch, number in enumerate(numbers, 1)
    )
    Run(folder).write_checkpoint(plan, replace(state, history=history))
    found, read = Run(folder).read_checkpoint()
    assert found == plan
    assert read.history == history
    assert read.rng_state == state.rng_state
    assert read.layer.weights.tobytes() == state.layer.weights.tobytes()
    sweep = SweepPlan((config,), (seed,), SplitConfig(), source, "f" * 64)
    Sweep.create(folder / "sweep", sweep)
    assert Sweep.open(folder / "sweep").plan == sweep
    assert Sweep.open(folder / "sweep").plan.source == source
