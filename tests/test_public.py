"""The public names of onelayer: each loads, type checkers know it, and importing the package loads nothing heavy."""

import inspect
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

import onelayer

NAMES = {
    *("SourceConfig", "SplitConfig", "TrainConfig", "Dataset", "Split", "Splits", "Standardizer", "SoftmaxLayer"),
    *("LOSSES", "Model", "TrainingState", "TrainingResult", "Run", "Evaluation", "Explanation", "SoftmaxClassifier"),
    *("load", "load_splits", "load_run", "train", "evaluate", "explain", "check_gradients"),
    *("OnelayerError", "OnelayerWarning"),
}


def test_every_public_name_is_listed_and_loads():
    assert set(onelayer.__all__) == set(dir(onelayer)) == NAMES
    for name in NAMES:
        value = getattr(onelayer, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__name__ == name
    assert onelayer.load_run == onelayer.Run.open
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
