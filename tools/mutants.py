"""Would the tests notice? Plant faults in copies of the project, one at a time, and run the tests that should fail.

The faults are in mutants.toml beside this file: a text of a source file, which must be there exactly once, what it is
replaced by, and the test files that should notice. Nothing is written in the project itself. The data of ONELAYER_DATA
are not used, so that everybody sees the same.

    python tools/mutants.py                  plant all of them (an hour or two on two cores)
    python tools/mutants.py sweep "l2 * W"   plant those whose file or text contains one of these words
    python tools/mutants.py --check          only look whether every text is still there exactly once

The exit code is 1 if a text is not there, if the tests fail without a fault, or if more than 3 of 100 faults survive.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FAULTS = Path(__file__).with_name("mutants.toml")
COPIED = ("src", "tests", "tools", "docs", "benchmarks", "pyproject.toml", "CMakeLists.txt", "README.md", "Makefile")
MOST_SURVIVORS = 0.03
TIMEOUT = 900  # seconds for the tests of a fault: one that makes them endless is noticed
# A kernel of one instruction set, hardly optimised, is built in a tenth of the time.
# An editable installation has a finder that comes before every path, and would give the tests the project itself.
PATHS_FIRST = """\
import sys

sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
"""
QUICK_BUILD = (("if(CMAKE_SYSTEM_PROCESSOR MATCHES", "if(FALSE AND CMAKE_SYSTEM_PROCESSOR MATCHES"), ("-O3", "-O1"))


class Fault(NamedTuple):
    """A text of a file, what to put in its place, and the test files that should notice."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    needs: str  # a module without which these tests cannot notice; empty for none

    def __str__(self) -> str:
        return f"{self.file}: {_short(self.old)}  ->  {_short(self.new)}"

    @property
    def compiled(self) -> bool:
        """True if the kernel has to be built with it."""
        return self.file.endswith((".cpp", ".hpp"))


class Copy:
    """A copy of the project, in which faults are planted.

    Parameters
    ----------
    path : Path
        An empty folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        ignored = shutil.ignore_patterns("__pycache__")
        for name in COPIED:
            source, target = ROOT / name, path / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            elif source.exists():
                shutil.copy(source, target)
        (path / "start").mkdir()
        (path / "start" / "sitecustomize.py").write_text(PATHS_FIRST)  # Python runs it first of all
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(path / "start"), str(path / "src")]),
            # Modules are compiled again: a fault of the same length, planted within a second, would not be seen.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.environment.pop("ONELAYER_DATA", None)

    def require_own_package(self) -> None:
        """Raise a RuntimeError if the tests would import another onelayer than that of this copy."""
        command = [sys.executable, "-c", "import onelayer; print(onelayer.__file__)"]
        done = subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, text=True)
        if not Path(done.stdout.strip()).is_relative_to(self.path.resolve()):
            raise RuntimeError(f"the tests would import {done.stdout or done.stderr} and not the copy in {self.path}")

    def tests_fail(self, tests: Sequence[str]) -> bool:
        """Run test files until the first failure; true if one failed, crashed or did not end."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--basetemp", "temporary"]
        command += [f"tests/{name}" for name in tests]
        try:
            done = subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0

    def build(self) -> None:
        """Build the kernel into this copy's package."""
        package, build = self.path / "src" / "onelayer" / "kernel", self.path / "build"
        if not build.exists():
            for compiled in package.glob("_kernel*.so"):
                compiled.unlink()
            lists = self.path / "CMakeLists.txt"
            text = lists.read_text()
            for old, new in QUICK_BUILD:
                text = text.replace(old, new)
            lists.write_text(text)
            nanobind = _output([sys.executable, "-m", "nanobind", "--cmake_dir"], self.path)
            options = [f"-Dnanobind_DIR={nanobind}", f"-DPython_EXECUTABLE={sys.executable}"]
            _output(["cmake", "-S", ".", "-B", "build", "-DSKBUILD_STATE=editable", *options], self.path)
        _output(["cmake", "--build", "build", "--target", "_kernel"], self.path)

    def notices(self, fault: Fault) -> bool:
        """Plant a fault, run its tests, and take it out again."""
        file = self.path / fault.file
        sound = file.read_text(encoding="utf-8")
        file.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
        try:
            if fault.compiled:
                self.build()
            return self.tests_fail(fault.tests)
        finally:
            file.write_text(sound, encoding="utf-8")


def read_faults() -> list[Fault]:
    """All faults of mutants.toml."""
    faults = []
    for room in tomllib.loads(FAULTS.read_text(encoding="utf-8"))["room"]:
        for old, new, *tests in room["faults"]:
            faults.append(Fault(room["file"], old, new, tuple(tests or room["tests"]), room.get("needs", "")))
    return faults


def stale(faults: Sequence[Fault]) -> list[str]:
    """Describe what is wrong with the list itself, a line for each fault."""
    problems = []
    for fault in faults:
        file = ROOT / fault.file
        found = file.read_text(encoding="utf-8").count(fault.old) if file.is_file() else 0
        if found != 1:
            problems.append(f"{fault}: the text is there {found} times; mend the list")
        if fault.new == fault.old:
            problems.append(f"{fault}: is replaced by itself; mend the list")
        problems += [f"{fault}: no tests/{name}" for name in fault.tests if not (ROOT / "tests" / name).is_file()]
    return problems


def obstacle(fault: Fault) -> str:
    """Say why a fault cannot be tried here; empty if it can."""
    if fault.compiled and not (shutil.which("cmake") and importlib.util.find_spec("nanobind")):
        return "the kernel cannot be built: CMake and nanobind are needed"
    if fault.needs == "kernel" and not list((ROOT / "src/onelayer/kernel").glob("_kernel*.so")):
        return "the kernel was not compiled"
    if fault.needs not in ("", "kernel") and not importlib.util.find_spec(fault.needs):
        return f"{fault.needs} is not installed"
    return ""


def try_all(faults: Sequence[Fault], jobs: int, say: Callable[[str], None]) -> list[Fault]:
    """Plant faults in copies, several at a time; return those that no test noticed.

    Raises
    ------
    RuntimeError
        If tests fail without a fault, or a kernel cannot be built.
    """
    survivors: list[Fault] = []
    lock, done = threading.Lock(), 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(jobs):
            copy = Copy(Path(folder) / str(number))
            copy.require_own_package()
            copies.put(copy)

        def in_copy(work: Callable[[Copy], bool]) -> bool:
            copy = copies.get()
            try:
                return work(copy)
            finally:
                copies.put(copy)

        def try_one(fault: Fault) -> None:
            nonlocal done
            began = time.monotonic()
            noticed = in_copy(lambda copy: copy.notices(fault))
            with lock:
                done += 1
                survivors.extend([] if noticed else [fault])
                word = "noticed " if noticed else "SURVIVED"
                say(f"{done:3}/{len(faults)} {word} {time.monotonic() - began:4.0f} s  {fault}")

        with ThreadPoolExecutor(jobs) as pool:
            for kind, with_build in (("Python", False), ("the kernel", True)):
                some = [fault for fault in faults if fault.compiled == with_build]
                if not some:
                    continue
                files = sorted({name for fault in some for name in fault.tests})
                say(f"faults of {kind}: {len(some)}; first {', '.join(files)} without any")
                if with_build:
                    for _ in pool.map(lambda _: in_copy(lambda copy: bool(copy.build())), range(jobs)):
                        pass
                failures = pool.map(lambda name: in_copy(lambda copy: copy.tests_fail([name])), files)
                for name, failed in zip(files, failures, strict=True):
                    if failed:
                        raise RuntimeError(f"tests/{name} fails without a fault; mend that first")
                for _ in pool.map(try_one, some):
                    pass
    return survivors


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Plant faults in copies of the project, and see whether tests notice.")
    parser.add_argument("words", nargs="*", help="only faults whose file or text contains one of these")
    parser.add_argument("--check", action="store_true", help="only look whether every text is still there exactly once")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="faults at a time; by default the cores")
    options = parser.parse_args()
    faults = read_faults()
    if problems := stale(faults):
        print("\n".join(problems))
        return 1
    if options.words:
        faults = [fault for fault in faults if any(word in f"{fault.file} {fault.old}" for word in options.words)]
    if options.check or not faults:
        print(f"{len(faults)} faults; every text is there exactly once")
        return 0
    obstacles = [obstacle(fault) for fault in faults]
    for reason in dict.fromkeys(filter(None, obstacles)):
        print(f"left out {obstacles.count(reason)} faults: {reason}")
    tried = [fault for fault, reason in zip(faults, obstacles, strict=True) if not reason]
    try:
        survivors = try_all(tried, max(1, options.jobs), lambda line: print(line, flush=True))
    except RuntimeError as error:
        print(error)
        return 1
    for fault in survivors:
        print(f"\nsurvived: {fault.file}, with {' '.join(fault.tests)}\n- {fault.old}\n+ {fault.new}")
    print(f"\n{len(tried) - len(survivors)} of {len(tried)} faults were noticed")
    return int(len(survivors) > MOST_SURVIVORS * len(tried))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."


def _output(command: list[str], where: Path) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
