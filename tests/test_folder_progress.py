"""Folders of images: progress, stops, and the commands that read one."""

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onelayer.cli import main as cli
from onelayer.config import SourceConfig
from onelayer.data import load
from onelayer.data.formats import folder_walk, image_rows
from onelayer.data.untrusted import images
from onelayer.runs.directory import Run


def test_progress(cifar_folder):
    calls = []
    load(
        cifar_folder[0],
        source_config=SourceConfig(image_size="8"),
        progress=lambda done, total: calls.append((done, total)),
    )
    counting, looking = calls[:20], calls[20:]
    assert counting == [(done, None) for done, _ in counting]
    assert counting[-1] == (360, None)
    assert [total for _, total in looking] == [360] * len(looking)
    ends = [place for place, (done, _) in enumerate(looking) if done == 360]
    for steps in (looking[: ends[0] + 1], looking[ends[0] + 1 :]):  # sizes, pixels
        done = [step for step, _ in steps]
        assert len(done) > 10
        assert done == sorted(set(done))
        assert done[-1] == 360


def test_a_long_list_of_files_tells_how_far_it_is(pets, monkeypatch):
    monkeypatch.setattr(folder_walk, "_OFTEN", 3)
    calls = []
    load(pets, progress=lambda *how_far: calls.append(how_far))
    assert calls[:4] == [(3, None), (3, None), (6, None), (6, None)], "of each class, in its midst and at its end"


def test_a_stop_ends_at_once_and_leaves_nothing(cifar_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("onelayer.data.cache.cache_directory", lambda: tmp_path)
    begun = []
    begun_at_stop = []

    def slowly(path: Path, image_shape: tuple[int, int, int], fit: str) -> images.Decoded:
        begun.append(path)
        time.sleep(0.005)
        return images.Decoded(np.zeros(3072, np.uint8))

    def stop(done: int, total: int | None) -> None:
        if begun:
            begun_at_stop.append(len(begun))
            raise KeyboardInterrupt

    monkeypatch.setattr(image_rows, "decode_image", slowly)
    with pytest.raises(KeyboardInterrupt):
        load(cifar_folder[0], progress=stop)
    assert len(begun) <= begun_at_stop[0] + min(32, os.cpu_count() + 4)  # of 360: each thread ends with its own
    assert list((tmp_path / "rows").iterdir()) == []
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


def test_commands(cifar_folder, tmp_path, monkeypatch, capsys):
    root, _ = cifar_folder
    monkeypatch.chdir(tmp_path)
    cli.run_command(
        ["train", "--data", str(root), "--preset", "coursework", "--epochs", "5", "--flip", "--eta", "0.01"]
    )
    run = f"runs/{root.name}-1"
    assert (
        f"{root.name}, protocol full: 240 train, 60 validation, 60 test rows of 3,072 numbers" in capsys.readouterr()[0]
    )
    assert (tmp_path / run / "templates.png").exists()
    assert (tmp_path / run / "mistakes.png").exists()
    cli.run_command(["evaluate", run])
    cli.run_command(["resume", run, "--epochs", "6", "--no-figures"])
    cli.run_command(["predict", run, str(next((root / "test" / "cat").iterdir()))])
    cli.run_command(["data", str(root), "--image-size", "5x7"])
    assert "image shape  3 x 7 x 5" in capsys.readouterr()[0]
    for path in root.glob("test/*/*"):  # other sizes are brought to the model's
        large = tmp_path / "other" / path.parent.name / path.name
        large.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.resize((64, 64), Image.Resampling.NEAREST).save(large)
    cli.run_command(["evaluate", run, "--split", "test", "--json"])
    of_run = json.loads(capsys.readouterr()[0])
    cli.run_command(["evaluate", run, "--data", str(tmp_path / "other"), "--split", "all", "--json"])
    of_other = json.loads(capsys.readouterr()[0])
    assert (of_other["name"], of_other["rows"]) == ("other, all", 60)
    model, other = Run.open(run).model, load(tmp_path / "other", source_config=SourceConfig(image_size="32x32"))
    right = (model.probabilities(other.rows).argmax(axis=1) == other.labels).mean()
    assert 0.5 < right < 0.9
    assert of_other["accuracy"] == pytest.approx(right)
    assert abs(of_run["accuracy"] - right) < 0.05  # Lanczos moves a row in 60 or two
