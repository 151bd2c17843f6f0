"""Files and directories of others: none is replaced, and none is shared."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, assert_one_line
from PIL import Image


def test_pictures_and_pages_of_others_are_not_replaced(run_cli, trained, tmp_path):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    assert_one_line(
        run_cli("explain", trained, "a.png", "-o", "a.png"),
        "a.png is there, and does not say that this",
    )
    assert (tmp_path / "a.png").read_bytes() == before
    (tmp_path / "notes.html").write_text("mine")
    assert_one_line(run_cli("report", trained, "-o", "notes.html"), "notes.html is there, and does not say that this")
    assert (tmp_path / "notes.html").read_text() == "mine"
    for _ in range(2):
        assert run_cli("explain", trained, "a.png")[0] == 0
        assert run_cli("report", trained)[0] == 0


# As torch.py in the folder of a process: it saves a report the import of PyTorch, which draws nothing and takes long.
NO_TORCH = "raise ImportError"
DRAWING = """
import sys
from onelayer.__main__ import main
for words in sys.argv[1:]:
    sys.argv = ["onelayer", *words.split()]
    main()
assert "matplotlib.pyplot" not in sys.modules
"""


def test_pictures_do_not_depend_on_how_others_draw(run_cli, tiny_cifar, tmp_path):
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "image.png")
    commands = (f"train --data {tiny_cifar} --epochs 1 --out run --quiet", "explain run image.png", "report run")

    def pictures() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (*tmp_path.glob("run/*.png"), tmp_path / "explanation.png")}

    for command in commands[:2]:
        assert run_cli(*command.split())[0] == 0
    expected = pictures()
    assert len(expected) == 8
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "explanation.png").unlink()
    (tmp_path / "matplotlibrc").write_text(
        "backend: nonsense\ntext.usetex: True\nsavefig.bbox: tight\naxes.grid: True\n"
        "figure.constrained_layout.use: True\nfont.size: 40\n"
    )
    (tmp_path / "torch.py").write_text(NO_TORCH)
    variables = os.environ | {
        "MPLBACKEND": "module://matplotlib_inline.backend_not_installed",
        "SOURCE_DATE_EPOCH": "yesterday",
    }
    command = [sys.executable, "-c", DRAWING, *commands]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert pictures() == expected


def test_the_library_leaves_the_users_backend_alone(tmp_path):
    code = (
        "import os, sys, matplotlib\n"
        "import numpy as np\n"
        "import onelayer.cli.main, onelayer.pictures.curves\n"
        "history = {'epoch': np.array([1]), 'train_loss': np.array([2.0])}\n"
        "onelayer.pictures.curves.curve(history, 'loss', 'title').savefig(sys.argv[1])\n"
        "assert matplotlib.get_backend() == os.environ['MPLBACKEND'] == 'svg'\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "loss.png")]
    subprocess.run(command, check=True, env=os.environ | {"MPLBACKEND": "svg"})


def test_only_what_the_command_wrote_is_replaced(run_cli, tiny_cifar, trained, tmp_path):
    """Neither the word onelayer nor a file of another command makes a file replaceable."""
    pytest.importorskip("onnx")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "a.png")
    assert run_cli("figures", trained, "--data", tiny_cifar)[0] == 0
    marks = 'producer onelayer <meta name="generator" content="onelayer"> Software\0onelayer explain\n'
    start = '"""Classify rows with what onelayer learned: by hand.\n"""\n'
    for name in ("train.sh", "page.html", "picture.png", "own.py", "own.npz"):
        (tmp_path / name).write_text(
            f"<!DOCTYPE html>\n<head><!-- {marks} --></head>" if name == "page.html" else start + marks
        )
    explained = ["explain", "run", "a.png", "-o", "e.png"]
    for words in (["export", "run", "m.onnx"], ["export", "run", "edited.py"], explained):
        assert run_cli(*words)[0] == 0
    (tmp_path / "edited.py").write_text((tmp_path / "edited.py").read_text().replace("softmax", "my own softmax"))
    np.savez(tmp_path / "arrays.npz", weights=np.eye(2), bias=np.ones(2), class_names=np.ones(2))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for words in (
        ["export", "run", "train.sh", "--format", "onnx"],
        ["export", "run", "e.png", "--format", "onnx"],
        ["export", "run", "own.py"],
        ["export", "run", "edited.py"],
        ["export", "run", "arrays.py"],
        ["explain", "run", "a.png", "-o", "picture.png"],
        ["explain", "run", "a.png", "-o", "run/templates.png"],
        ["report", "run", "-o", "page.html"],
    ):
        assert_one_line(run_cli(*words), r"is there, and does not say that this command wrote it; choose another name")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    for words in (["export", "run", "m.onnx"], explained):
        assert run_cli(*words)[0] == 0, "its own are"


@pytest.mark.parametrize("words", [["export", "run", "pipe.py"], ["report", "run", "-o", "pipe.html"]])
def test_a_pipe_in_the_way_of_a_file_is_not_read(trained, tmp_path, words):
    os.mkfifo(tmp_path / words[-1])
    (tmp_path / "torch.py").write_text(NO_TORCH)
    command = [sys.executable, "-m", "onelayer", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    said = f"onelayer: {words[-1]} is there, and does not say that this command wrote it; choose"
    assert done.stderr.startswith(said)


def test_a_directory_that_another_process_made_meanwhile_is_not_shared(run_cli, tiny_cifar, tmp_path, monkeypatch):
    mkdir = Path.mkdir

    def slow(path: Path, *options: object, **named: object) -> None:
        if path.name == "cifar-10-1" and not path.exists():
            mkdir(path)  # by another process, after this one has looked
        mkdir(path, *options, **named)

    monkeypatch.setattr(Path, "mkdir", slow)
    assert run_cli("train", "--data", tiny_cifar, "--quiet", *TINY) == (0, "", "")
    assert not list((tmp_path / "runs" / "cifar-10-1").iterdir())
    assert (tmp_path / "runs" / "cifar-10-2" / "summary.json").exists()


def test_where_another_process_works_there_is_no_second(run_cli, trained, tiny_cifar, tmp_path):
    data = ["--data", tiny_cifar, "--quiet"]
    commands = {
        "run": [["resume", "run", "--epochs", "5"], ["train", "--out", "run", "--overwrite", *data]],
        "new": [["train", "--out", "new", *data], ["sweep", "--out", "new", "--epochs", "1", *data]],
        "study": [["study", "coursework", "--out", "study", *data]],
    }
    holder = {"host": "elsewhere", "pid": 7, "process": "x", "since": "2026-01-02 03:04:05", "token": "y"}
    for name, words in commands.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / ".onelayer-running").write_text(json.dumps(holder))
        before = {path: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for command in words:
            said = f"^onelayer: {name}: process 7 on elsewhere has worked there since 2026-01-02 03:04:05; "
            advice = rf"wait until it has ended, or if it has, delete {name}/\.onelayer-running\n"
            assert_one_line(run_cli(*command), said + advice)
        assert {path: path.read_bytes() for path in (tmp_path / name).iterdir()} == before
    (tmp_path / "run" / ".onelayer-running").unlink()
    assert run_cli("resume", "run", "--epochs", "4", "--no-figures", "--quiet") == (0, "", "")
    assert not (tmp_path / "run" / ".onelayer-running").exists()
