"""Signals, and streams that are closed, full, or cannot hold a letter."""

import contextlib
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, assert_one_line, start

from onelayer.errors import DataError
from onelayer.runs.directory import Run


@pytest.mark.parametrize(
    ("number", "delays"),
    [(signal.SIGINT, (0.02, 0.1, 0.3, 0.8)), (signal.SIGTERM, (0.05, 0.2, 0.5))],  # both are handled alike
)
def test_a_signal_at_any_moment_ends_in_one_line(tiny_cifar, tmp_path, number, delays):
    code = "from onelayer.__main__ import main; print('here', flush=True); main()"
    command = [sys.executable, "-c", code, "train", "--data", str(tiny_cifar), "--epochs", "100000", "--out"]
    for trial, delay in enumerate(delays):
        run = tmp_path / f"{trial}"
        with start([*command, str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            process.stdout.readline()
            time.sleep(delay)
            err = ""
            while process.poll() is None:  # Python can swallow an exception within a callback, and says so
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    err = process.communicate(timeout=10)[1]
        if "Exception ignored" in err:
            continue
        # Python ends by the signal itself where that came while it evaluated a string, as for a dataclass.
        assert process.returncode in (128 + number, -number), err
        hint = f"; go on with: onelayer resume {run}" if (run / "checkpoint.safetensors").exists() else ""
        assert err in (f"onelayer: stopped{hint}\n", "onelayer: stopped\n"), err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("error", [ImportError("cannot initialise module"), DataError("a file is damaged")])
def test_a_signal_that_became_another_error_is_still_a_stop(run_cli, monkeypatch, number, error):
    # As compiled modules do with one that comes while they are imported.
    def swallow(arguments: list[str]) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise error

    # Where the tests run in the background, SIGINT is ignored.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
    monkeypatch.setattr("onelayer.cli.main.run_command", swallow)
    assert run_cli("train") == (128 + number, "", "onelayer: stopped\n")
    monkeypatch.setattr(
        "onelayer.cli.main.run_command", lambda arguments: (_ for _ in ()).throw(ImportError("a defect"))
    )
    with pytest.raises(ImportError, match="a defect"):
        run_cli("train")


def test_too_little_memory_is_one_line(run_cli, monkeypatch):
    for error, said in (
        (MemoryError(), r"there is not enough memory; close"),
        (None, r"there is not enough memory: Unable to allocate 4.00 EiB for an array with .* float32; close other"),
    ):

        def full(words, error=error):
            if error:
                raise error
            np.empty((2**30, 2**30), np.float32)

        monkeypatch.setattr("onelayer.cli.main.run_command", full)
        assert_one_line(run_cli("train"), said)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_can_be_resumed_to_the_same_bits(run_cli, tiny_cifar, tmp_path, number, code):
    options = ["--data", str(tiny_cifar), "--epochs", "600", "--no-figures"]
    command = [sys.executable, "-m", "onelayer", "train", "--out", "a run", *options]
    with start(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch   5/600"):
                break
        process.send_signal(number)
        _, err = process.communicate()
    assert process.returncode == code
    assert err == "onelayer: stopped; go on with: onelayer resume 'a run'\n"
    assert run_cli("train", "--out", "whole", "--quiet", *options)[0] == 0
    code, out, _ = run_cli("resume", "a run", "--no-figures")
    assert code == 0
    assert re.search(r"a run: \d+ epochs done, going on to 600", out)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a run", "whole")]
    assert models[0] == models[1]


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file system here is always full")


@needs_full
@pytest.mark.parametrize("words", [[], ["--help"], ["train", "-h"], ["--version"], ["data", "digits"]])
def test_a_command_that_only_prints_fails_where_its_text_is_lost(run_cli, monkeypatch, words):
    reason = "cannot write to standard output: No space left on device; its text is lost"
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run_cli(*words) == (2, "", f"onelayer: {reason}\n")
    if words == ["--version"]:  # as Python ends, it writes what is left
        command = [sys.executable, "-m", "onelayer", *words]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (2, f"onelayer: {reason}\n")


FULL = [pytest.param(streams, marks=needs_full) for streams in ("> /dev/full", "> /dev/full 2>&1")]


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", "| true", *FULL])
def test_what_cannot_be_said_stops_no_run(tiny_cifar, tmp_path, streams):
    words = ["train", "--data", str(tiny_cifar), "--out", "run", *TINY]
    command = f"{shlex.join([sys.executable, '-m', 'onelayer', *words])} {streams}"
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.count("\n") == (streams == "> /dev/full")
    run = Run.open(tmp_path / "run")
    assert set(run.scores) == {"train", "validation", "test"}
    assert len(run.model.class_names) == 10, "no file got what was meant for the screen"


@pytest.mark.parametrize("form", ["", "--json"])
def test_predict_stops_when_nobody_reads_on(run_cli, trained, tiny_batches, tmp_path, form):
    """A pipe that is closed stops the work; the file of rows is so long that the time would tell."""
    np.save(tmp_path / "X.npy", np.tile(tiny_batches["test_batch"][0], (500, 1)))  # 30,000 rows, 92 MB
    code = (
        "import sys\n"
        "from onelayer.analysis import prediction\n"
        "from onelayer.__main__ import main\n"
        "whole, done = prediction._classified, []\n"
        "prediction._classified = lambda *words: done.append(1) or whole(*words)\n"
        "try: main()\n"
        "finally: print(len(done), file=sys.stderr)\n"
    )
    words = shlex.join([sys.executable, "-c", code, "predict", str(trained), "X.npy", *form.split()])
    shell = ["bash", "-o", "pipefail", "-c", f"{words} | head -1"]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    assert int(done.stderr) < 3, "of 11 blocks"


def test_a_closed_stream_does_not_leave_its_number_to_a_file(tmp_path):
    code = (
        "from onelayer.__main__ import _open_streams\n"
        "_open_streams()\n"
        "first, second = open('file', 'w'), open('number', 'w')\n"
        "print(first.fileno(), file=second)\n"
    )
    command = f"{shlex.join([sys.executable, '-c', code])} <&- >&- 2>&-"
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    assert int((tmp_path / "number").read_text()) > 2


def test_words_that_the_output_cannot_hold_are_spelt_out(run_cli, monkeypatch, tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (40, 12)).astype(np.uint8)
    np.savez(tmp_path / "rows.npz", X=rows, y=np.array(["Käse", "鳥"])[np.arange(40) % 2])
    np.save(tmp_path / "\u00e9.npy", rows[:1])

    def said(*words: str, encoding: str) -> str:
        with io.BytesIO() as said, io.TextIOWrapper(said, encoding=encoding) as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            assert run_cli(*words) == (0, "", "")
            return said.getvalue().decode(encoding)

    said("train", "--data", "rows.npz", "--out", "run", *TINY, encoding="ascii")
    table = said("evaluate", "run", encoding="latin-1")
    assert "Käse" in table
    assert "\\u9ce5" in table
    assert "K\\xe4se" in said("evaluate", "run", encoding="ascii")
    plain, spelt = (said("predict", "run", "é.npy", "--json", encoding=name) for name in ("utf-8", "ascii"))
    assert "鳥" in plain
    assert json.loads(spelt) == json.loads(plain)
