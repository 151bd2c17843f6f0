"""What the package imports is what pyproject.toml declares."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


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
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("the tests lie apart from the project")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed, optional = (
        {canonical(re.match(r"[\w.-]+", line)[0]) for line in lines}
        for lines in (project["dependencies"], [line for name in extras if name != "dev" for line in extras[name]])
    )
    providers = packages_distributions()
    distributions = {name: canonical(providers.get(name, [name])[0]) for name in imported(ROOT / "src" / "onelayer")}
    assert len(distributions) > 10
    assert set(distributions.values()) == needed | optional
