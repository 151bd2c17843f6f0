"""The public names of onelayer: each loads, type checkers know it, and importing the package loads nothing heavy."""

import doctest
import inspect
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_dataset, toy_splits

import onelayer
from onelayer.config import COURSEWORK
from onelayer.experiments.pairing import compare_runs
from onelayer.features.map import FeatureMap
from onelayer.runs import training as runs
from onelayer.runs.plan import Plan
from onelayer.training import public
from onelayer.training import train as engine
from onelayer.training.state import Problem

NAMES = {
    *("SourceConfig", "SplitConfig", "TrainConfig", "Dataset", "Split", "Splits", "Standardizer", "SoftmaxLayer"),
    *("LOSSES", "Model", "TrainingState", "TrainingResult", "Run", "Evaluation", "Explanation", "SoftmaxClassifier"),
    "PatchFeatures",
    *("load", "load_splits", "load_run", "train", "evaluate", "explain", "compare", "check_gradients"),
    *("OnelayerError", "OnelayerWarning"),
}


def test_every_public_name_is_listed_and_loads():
    assert set(onelayer.__all__) == set(dir(onelayer)) == NAMES
    for name in NAMES:
        value = getattr(onelayer, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__name__ == name
    with pytest.raises(AttributeError, match="module 'onelayer' has no attribute 'nonsense'"):
        _ = onelayer.nonsense


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, onelayer; dir(onelayer); print({name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'onelayer'" in loaded
    for name in ("numpy", "scipy", "sklearn", "matplotlib", "torch", "PIL", "pooch", "safetensors"):
        assert f"'{name}'" not in loaded


def test_type_checkers_know_the_names(tmp_path):
    pytest.importorskip("mypy")
    lines = {
        "onelayer.Run.open('x').path": "pathlib.Path",
        "onelayer.load_run('x')": "onelayer.runs.directory.Run",
        "onelayer.TrainConfig().learning_rate": "float",
        "train": "def (data: ",
        "onelayer.nonsense": "",
    }
    code = "import onelayer\nfrom onelayer import *\n" + "".join(f"reveal_type({line})\n" for line in lines)
    (tmp_path / "user.py").write_text(code)
    # The annotations of NumPy and others take most of a minute to read, and no answer here depends on them.
    others = sorted(name for name in packages_distributions() if name.isidentifier() and name != "onelayer")
    skipped = "follow_imports = skip\nfollow_imports_for_stubs = true\nignore_missing_imports = true\n"
    sections = f"[mypy]\nstrict = true\n[mypy-{','.join(f'{name}.*' for name in others)}]\n{skipped}"
    (tmp_path / "mypy.ini").write_text(sections)
    command = [sys.executable, "-m", "mypy", "user.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    notes = [line for line in done.stdout.splitlines() if "Revealed type" in line]
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    for line, expected in zip(notes, lines.values(), strict=True):
        assert expected in line
    assert len(errors) == 1, done.stdout
    assert 'Module has no attribute "nonsense"' in errors[0]


def same_bits(a, b):
    return a.model.layer.weights.tobytes() == b.model.layer.weights.tobytes() and a.scores == b.scores


def test_train_takes_a_source_and_settings_by_name():
    splits = onelayer.load_splits("digits", onelayer.SplitConfig(split_seed=3))
    expected = engine.train(splits, onelayer.TrainConfig(learning_rate=0.05, epochs=2, l2=0.01, batch_size=50))
    settings = {"learning_rate": 0.05, "epochs": 2, "l2": 0.01, "batch_size": 50}
    short = {"eta": 0.05, "n_epochs": 2, "lambda_": 0.01, "n_batch": 50}
    assert same_bits(onelayer.train("digits", split_seed=3, **settings), expected)
    assert same_bits(onelayer.train(onelayer.load("digits"), split_seed=3, **short), expected)
    assert same_bits(onelayer.train(splits, lr=0.05, epochs=2, lam=0.01, n_batch=50), expected)
    assert same_bits(onelayer.train(splits, onelayer.TrainConfig(**settings)), expected)
    assert same_bits(onelayer.train(splits, onelayer.TrainConfig(**settings | {"l2": 7}), l2=0.01), expected)
    assert not same_bits(onelayer.train("digits", **settings), expected)
    assert doctest.testmod(public).failed == 0


def test_train_takes_class_weights_as_a_dict():
    expected = onelayer.train(TOY, epochs=2, class_weight="class 1=2.5,class 3=0.00001")
    assert same_bits(
        onelayer.train(TOY, epochs=2, class_weight={"class 1": np.float32(2.5), "class 3": 1e-5}), expected
    )
    assert not same_bits(onelayer.train(TOY, epochs=2), expected)
    by_number = onelayer.train("digits", epochs=1, class_weight={3: 2})
    assert same_bits(by_number, onelayer.train("digits", epochs=1, class_weight="3=2"))


def test_a_model_says_what_it_has_instead_of_predict():
    model = onelayer.train(TOY, epochs=0).model
    with pytest.raises(AttributeError, match=r"^Model has no attribute 'predict'; probabilities\(rows\) returns those"):
        model.predict(TOY.rows)
    with pytest.raises(AttributeError, match=r"^Model has no attribute 'colour'$"):
        _ = model.colour
    assert pickle.loads(pickle.dumps(model)).class_names == model.class_names


def test_train_takes_a_preset():
    splits = toy_splits()
    found = onelayer.train(splits, preset="coursework", epochs=2, learning_rate=0.02)
    assert same_bits(found, engine.train(splits, replace(COURSEWORK, epochs=2, learning_rate=0.02)))


def test_a_preset_is_for_cifar_10_where_auto_can_have_it(monkeypatch):
    digits = onelayer.load("digits")
    monkeypatch.setattr("onelayer.data.sources.load", lambda *_, **__: digits)
    with pytest.warns(onelayer.OnelayerWarning, match="digits takes its place, without the preset coursework"):
        found = onelayer.train("auto", preset="coursework", epochs=1)
    assert same_bits(found, onelayer.train("digits", epochs=1))


TOY = toy_dataset()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: onelayer.train(TOY, lerning_rate=1), "unknown setting lerning_rate; did you mean learning_rate"),
        (lambda: onelayer.train(TOY, qqq=1), "unknown setting qqq; known are solver, tol, .*, coarse"),
        (lambda: onelayer.train(TOY, weight_decay=1), "unknown setting weight_decay; l2 is half of a weight decay"),
        (lambda: onelayer.train(TOY, lr=1, eta=1), "lr and eta are the same setting; pass one of them"),
        (lambda: onelayer.train(TOY, lr="fast"), "learning rate 'fast' is not a positive number, or auto"),
        (lambda: onelayer.train(TOY, onelayer.SplitConfig()), "config is of the type SplitConfig; .* protocol=..."),
        (lambda: onelayer.train(TOY, {}), "config is of the type dict; pass a TrainConfig, or settings by name"),
        (
            lambda: onelayer.train(np.eye(3), [0, 1, 2]),
            r"data is .*ndarray; .*; SoftmaxClassifier\(\)\.fit\(X, y\) trains",
        ),
        (
            lambda: onelayer.train(TOY, class_weight={"class 1": -1}),
            "class_weight .* is not a dict of class names, wit",
        ),
        (lambda: onelayer.train(TOY, class_weight={"a,b": 1}), "class_weight .* is not a dict of class names, without"),
        (lambda: onelayer.train(TOY, class_weight={}), "class_weight {} is not a dict of class names"),
        (lambda: onelayer.train(3), "data is of the type int; pass a name or path, a Dataset, or Splits"),
        (lambda: onelayer.train("digts"), "did you mean digits"),
        (lambda: onelayer.train(TOY, preset="course"), "preset 'course' is not known; pass coursework"),
        (lambda: onelayer.train(TOY, COURSEWORK, preset="coursework"), "config and preset both give all settings"),
        (lambda: onelayer.train(TOY, features=3), "features is of the type int; pass a word such as patches"),
        (lambda: onelayer.train(TOY, image_size="8"), "image_size does not apply to rows that are read already"),
        (lambda: onelayer.train(toy_splits(), test_size=9), "test_size does not apply to rows that are divided"),
        (lambda: onelayer.evaluate(3, toy_splits()), "model is of the type int; pass a Model, such as result.model"),
        (
            lambda: onelayer.evaluate(onelayer.train(TOY, epochs=0).model, toy_splits()),
            "split is of the type Splits; pass one of the splits: splits.test",
        ),
    ],
)
def test_a_wrong_argument_is_answered_in_a_line_that_says_what_to_pass(call, message):
    with pytest.raises(onelayer.OnelayerError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_map_that_returns_another_number_of_features_is_refused():
    class Halves(FeatureMap):
        name, image_shape, linear, d_in, d_out = "halves", None, False, 60, 30

        def transform(self, R):
            return R[:, :29]

    with pytest.raises(onelayer.OnelayerError, match=r"halves: the map returned .*\d+, 29\) .* rows; its d_out is 30"):
        onelayer.train(TOY, features=Halves())


def test_progress_is_shown_where_it_is_asked_for(capsys):
    onelayer.train(TOY, epochs=3)
    assert capsys.readouterr() == ("", "")
    result = onelayer.train(TOY, epochs=3, progress=True)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{result.state.history[-1].in_words(3)}; all 3 epochs are done\n")


def test_compare_takes_runs_and_paths_and_finds_their_data(tmp_path):
    data = toy_dataset()
    file = tmp_path / "toy.npz"
    np.savez(file, X=data.rows, y=data.labels)
    splits = onelayer.load_splits(str(file), onelayer.SplitConfig())

    def trained(place, seed, l2, *, report_test=True):
        config = onelayer.TrainConfig(epochs=2, learning_rate=0.01, seed=seed, l2=l2)
        plan = Plan(config, onelayer.SplitConfig(), str(file), splits.dataset.fingerprint)
        run = onelayer.Run.create(tmp_path / place)
        runs.start(run, plan, Problem.of(splits, config), report_test=report_test)
        return run

    a = [trained(f"a/{seed}", seed, 0.0) for seed in (1, 2)]
    b = [trained(f"b/{seed}", seed, 30.0) for seed in (1, 2)]
    untested = trained("untested", 1, 30.0, report_test=False)
    of_folders, of_runs = onelayer.compare(tmp_path / "a", str(tmp_path / "b")), onelayer.compare(a[0], b[0])
    assert of_folders == compare_runs(a, b, "test", splits)
    assert of_runs == compare_runs(a[:1], b[:1], "test", splits)
    assert 2 == of_folders.pairs != of_runs.pairs
    assert of_runs.only_a + of_runs.only_b > 0
    on_validation = compare_runs(a[:1], [untested], "validation", splits)
    assert on_validation != of_runs
    assert onelayer.compare(a[0], b[0], split="validation") == on_validation
    with pytest.warns(onelayer.OnelayerWarning, match="on validation rows, because not all runs have read the test"):
        assert onelayer.compare(a[0], untested) == on_validation
    with pytest.warns(onelayer.OnelayerWarning, match="no partner with this seed: seed 2 of A"):
        assert onelayer.compare(tmp_path / "a", b[0]) == of_runs
    assert onelayer.compare(a[0], untested, split="test") == of_runs
    file.rename(tmp_path / "moved.npz")
    with pytest.raises(onelayer.OnelayerError, match="the data of this run are not there"):
        onelayer.compare(a[0], b[0])
    assert onelayer.compare(a[0], b[0], source=str(tmp_path / "moved.npz")) == of_runs


def test_the_package_can_be_imported_from_a_zip(tmp_path):
    source = Path(onelayer.__file__).parent
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as archive:
        for file in source.rglob("*.py"):
            archive.write(file, Path("onelayer") / file.relative_to(source))
    code = "import onelayer; print(onelayer.__file__, onelayer.TrainConfig.__name__)"
    command = [sys.executable, "-S", "-c", code]
    found = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(tmp_path / "packed.zip")}, capture_output=True, text=True
    )
    assert found.stderr == ""
    assert found.stdout.split() == [str(tmp_path / "packed.zip" / "onelayer" / "__init__.py"), "TrainConfig"]
