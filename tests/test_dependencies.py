"""The package imports what pyproject.toml declares."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
TRAIN = """
import sys
sys.modules |= dict.fromkeys({missing})  # to import these raises an error
import onelayer

splits = onelayer.load_splits("e.npz", onelayer.SplitConfig())
result = onelayer.train(splits, onelayer.TrainConfig(epochs=20, learning_rate=0.5))
assert result.scores["validation"].accuracy > 0.9, result.scores
"""


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pyproject() -> dict:
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("the tests lie apart from the project")
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def imported(folder: Path) -> dict[str, set[str]]:
    """Packages of others that the modules below a folder import anywhere, with the files that do."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in names:
                found.setdefault(name.partition(".")[0], set()).add(path.name)
    return {name: files for name, files in found.items() if name not in sys.stdlib_module_names | {"onelayer"}}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported():
    project = pyproject()["project"]
    extras = project["optional-dependencies"].values()
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    declared = {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}
    providers = packages_distributions()
    distributions = {name: canonical(providers.get(name, [name])[0]) for name in imported(ROOT / "src" / "onelayer")}
    assert len(distributions) > 10
    assert set(distributions.values()) == declared


def test_training_in_python_takes_three_packages_of_others(tmp_path):
    labels = np.arange(300) % 3
    rows = np.random.default_rng(0).normal(3 * np.eye(3)[labels], 1)
    np.savez(tmp_path / "e.npz", x=rows.astype(np.float32), y=labels)

    def errors_without(missing: set[str]) -> str:
        command = [sys.executable, "-c", TRAIN.format(missing=missing)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stderr

    needed = {"numpy", "array_api_compat", "threadpoolctl"}
    others = set(imported(ROOT / "src" / "onelayer")) - needed
    slow = {"numpy.f2py"}  # it takes longer to load than the rest of NumPy
    assert errors_without(others | slow) == ""
    for name in needed:
        assert f"import of {name} halted" in errors_without(others | {name})


def test_the_hook_formats_as_the_ruff_of_make_test():
    if not (ROOT / ".pre-commit-config.yaml").exists():
        pytest.skip("the tests lie apart from the project")
    hook = re.search(r"/ruff-pre-commit\n +rev: v(\S+)\n", (ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    ruff = next(line for line in pyproject()["dependency-groups"]["dev"] if str(line).startswith("ruff"))
    assert Requirement(ruff).specifier.contains(hook[1])
