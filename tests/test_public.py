"""The public names of onelayer: each loads, type checkers know it, and importing the package loads nothing heavy."""

import inspect
import os
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_dataset

import onelayer
from onelayer.experiments.pairing import compare_runs
from onelayer.runs import training as runs
from onelayer.runs.plan import Plan
from onelayer.training.state import Problem

NAMES = {
    *("SourceConfig", "SplitConfig", "TrainConfig", "Dataset", "Split", "Splits", "Standardizer", "SoftmaxLayer"),
    *("LOSSES", "Model", "TrainingState", "TrainingResult", "Run", "Evaluation", "Explanation", "SoftmaxClassifier"),
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
        "train": "def (splits: onelayer.data.",
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
