"""The list of deliberate faults follows the code, and the tool tells what is noticed from what is not."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def mutants(tool: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(tool), *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_every_text_is_in_its_file_exactly_once():
    code, said = mutants(ROOT / "tools" / "mutants.py", "--check")
    assert code == 0, said
    assert int(said.split()[0]) >= 100


def test_faults_are_noticed_or_survive_and_the_project_is_left_alone(tmp_path):
    """The toy project has the package's name: an editable installation must not take its place."""
    source = "def double(x):\n    # by adding\n    return x + x\n"
    for name, text in {
        "tools/mutants.py": (ROOT / "tools" / "mutants.py").read_text(),
        "src/onelayer.py": source,
        "tests/test_sums.py": "from onelayer import double\n\n\ndef test_double():\n    assert double(3) == 6\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def tried(*faults: str, needs: str = "") -> tuple[int, str]:
        room = f'[[room]]\nfile = "src/onelayer.py"\ntests = ["test_sums.py"]\nneeds = "{needs}"\n'
        (tmp_path / "tools" / "mutants.toml").write_text(f"{room}faults = [{', '.join(faults)}]\n")
        return mutants(tmp_path / "tools" / "mutants.py", "--jobs", "2")

    code, said = tried('["x + x", "x * x"]', '["by adding", "by luck"]')
    assert code == 1
    assert "noticed " in said
    assert "survived: src/onelayer.py, with test_sums.py\n- by adding\n+ by luck\n" in said
    assert said.endswith("1 of 2 faults were noticed\n")
    assert (tmp_path / "src" / "onelayer.py").read_text() == source
    code, said = tried('["x - x", "x * x"]', '["x", "y"]')
    assert code == 1
    assert "x - x  ->  x * x: the text is there 0 times; mend the list" in said
    assert "x  ->  y: the text is there 3 times; mend the list" in said
    code, said = tried('["x + x", "x * x"]', needs="no_such_module")
    assert code == 0
    assert "left out 1 faults: no_such_module is not installed" in said
    (tmp_path / "src" / "onelayer.py").write_text(source.replace("x + x", "x + x + 1"))
    code, said = tried('["+ 1", "+ 2"]')
    assert code == 1
    assert "tests/test_sums.py fails without a fault; mend that first" in said
