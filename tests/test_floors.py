"""Imports go downwards: from a room to the rooms below it, and never in a circle."""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "onelayer"
# From the top to the ground. The package itself is above everything: it names what the rooms offer.
FLOORS = (
    *(
        "__main__",
        "cli",
        "torchrun",
        "torchsums",
        "transformer",
        "estimator",
        "passed",
        "live",
        "report",
        "experiments",
    ),
    "pictures",
    *("runs", "analysis", "export", "training", "coded", "model", "data", "features", "kernel"),
    *("layer", "files", "container", "config", "losses", "drawing", "processes", "words", "blas", "parts", "errors"),
)
INSIDE_DATA = ("sources", "formats", "untrusted")


@cache
def imports() -> dict[str, set[str]]:
    """Return the modules that each module imports, anywhere in it, as dotted names below the package."""
    files = {".".join(file.relative_to(SOURCE).with_suffix("").parts): file for file in SOURCE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): file for name, file in files.items() if name != "__init__"}
    found: dict[str, set[str]] = {}
    for name, file in modules.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(alias.name.split(".")[0] == "onelayer" for alias in node.names), (
                    f"{file}: from ... import"
                )
            elif isinstance(node, ast.ImportFrom) and node.level:
                assert (name, node.level) == ("kernel", 1), f"{file}: an import that is relative to a package"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onelayer":
                for alias in node.names:
                    words = f"{node.module}.{alias.name}".removeprefix("onelayer").strip(".").split(".")
                    target = ".".join(words) if ".".join(words) in modules else ".".join(words[:-1])
                    assert target in modules, f"{file} imports {node.module}.{alias.name}"
                    found[name].add(target)
    return found


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[0])


def test_every_room_has_a_floor():
    assert {module.split(".")[0] for module in imports()} == set(FLOORS)


def test_no_import_goes_up():
    upward = [(a, b) for a, below in imports().items() for b in below if floor(b) < floor(a)]
    assert upward == []


def test_modules_are_loaded_by_name_in_three_places():
    """The package loads its public names, `kernel` its compiled module, and `drawing` what stands above: `pictures`."""
    loading = {file for file in SOURCE.rglob("*.py") if re.search("import_module|__import__", file.read_text("utf-8"))}
    assert loading == {SOURCE / name for name in ("__init__.py", "kernel/__init__.py", "drawing.py")}
    names = re.findall(r"import_module\((.*)\)", (SOURCE / "drawing.py").read_text("utf-8"))
    assert names == ['"onelayer.pictures.results"']


def test_no_circle():
    graph = imports()
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)  # raises CycleError


def test_readers_of_bytes_know_nothing_of_formats_and_formats_nothing_of_sources():
    inside = {a: below for a, below in imports().items() if a.split(".")[1:2] and a.split(".")[1] in INSIDE_DATA}
    place = {name: number for number, name in enumerate(INSIDE_DATA)}
    upward = [
        (a, b)
        for a, below in inside.items()
        for b in below
        if b.startswith("data.") and place.get(b.split(".")[1], 99) < place[a.split(".")[1]]
    ]
    assert len(inside) > 10
    assert upward == []
