"""Progress on a terminal, in a pipe and in a notebook."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest


def on_a_terminal(words: list[str], width: int, folder: Path, **variables: str) -> list[str]:
    """Run a command on a terminal of this width; return what the screen showed, a frame after the other."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    unset = ("COLUMNS", "JPY_PARENT_PID", "NO_COLOR")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= {"TERM": "xterm-256color"} | variables
    command = [sys.executable, "-m", "onelayer", *words]
    streams = {"stdin": secondary, "stdout": secondary, "stderr": secondary}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        os.close(secondary)
        shown = b""
        try:
            while piece := os.read(primary, 65536):
                shown += piece
        except OSError:
            pass  # the end, on Linux
    os.close(primary)
    assert process.returncode == 0, shown
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    return [frame.strip("\n") for frame in plain.split("\r") if frame.strip()]


def training(tiny_cifar: Path, *options: str) -> list[str]:
    return ["train", "--data", str(tiny_cifar), "--no-figures", "--epochs", "300", "--out", "run", *options]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (40, r"\d+/300  validation [\d.]+ % [-\d]:[-\d]+:[-\d]+"),
        (60, r"epoch +\d+/300  train [\d.]+ %  validation [\d.]+ % [-\d]:[-\d]+:[-\d]+"),
        (80, r"epoch +\d+/300  train [\d.]+, [\d.]+ %  validation [\d.]+, [\d.]+ % [-\d]:[-\d]+:[-\d]+"),
        (120, r"epoch +\d+/300  train .* nats, [\d.]+ %  validation .* nats, [\d.]+ % [━╸╺ ]+ [-\d]:[-\d]+:[-\d]+"),
    ],
)
def test_a_terminal_shows_accuracy_and_the_time_left(tiny_cifar, tmp_path, width, line):
    frames = on_a_terminal(training(tiny_cifar), width, tmp_path)
    epochs = [frame for frame in frames if "/300" in frame]
    assert len(epochs) > 1
    for epoch in epochs:
        assert len(epoch) <= width
        assert re.fullmatch(line, epoch), epoch
    assert not any("…" in frame for frame in frames if "epoch" in frame)


def test_a_pipe_and_a_notebook_get_few_lines(tiny_cifar, tmp_path):
    """A notebook's shell pretends to be a terminal, and its cell keeps every frame of a bar."""
    piped = subprocess.run(
        [sys.executable, "-m", "onelayer", *training(tiny_cifar)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"FORCE_COLOR": "1"},
    )
    assert (piped.returncode, piped.stderr) == (0, "")
    notebook = on_a_terminal(training(tiny_cifar, "--overwrite"), 80, tmp_path, JPY_PARENT_PID="1")
    for lines in (piped.stdout.splitlines(), notebook):
        epochs = [line.split()[1] for line in lines if line.startswith("epoch")]
        assert epochs == [f"{number}/300" for number in (1, 2, 5, 10, 20, 50, 100, 200, 300)]
