"""Keeping what a page trained: a run directory with the very bits of `onelayer train` with the same settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from onelayer.analysis.certification import certificate_summary, certify_if_useful
from onelayer.analysis.judgement import judge
from onelayer.data.progress import Progress
from onelayer.export import to_onnx, write
from onelayer.files import is_report, write_over
from onelayer.live.answers import Training
from onelayer.live.messages import Message, MessageError
from onelayer.live.sources import Data
from onelayer.runs.claim import claimed
from onelayer.runs.directory import Run
from onelayer.runs.training import start
from onelayer.words import is_name


def keep(
    training: Training, message: Message, parent: Path, progress: Progress, cancelled: Callable[[], bool]
) -> dict[str, Any]:
    """Train again, in a run directory, and return what the message ``kept`` says.

    Training again is what makes the run that of the command: it scores the test rows as the command does, writes its
    checkpoints, and draws its pictures. The page itself leaves the test rows alone.

    Raises
    ------
    MessageError
        If the name cannot be that of a folder.
    OnelayerError
        If the run cannot be written, such as where there is one of this name.
    """
    from onelayer.pictures.finished import draw_run  # matplotlib, which it loads, takes a second

    data, problem, splits = training.data, training.problem, training.data.splits
    named = parent / _run_name(message["name"]) if message["name"] else None
    if named and named.exists():
        raise MessageError(f"there is a run {named.name} already; choose another name")
    if message["onnx"]:
        to_onnx(training.model)  # refuses, before anything is written, what it cannot hold
    plan = data.plan(problem.config)
    with claimed(named, parent / splits.dataset.name.lower()) as path:
        run = Run.create(path)
        result = start(run, plan, problem, lambda state: progress(state.epoch, None), cancelled=cancelled)
        judgement = judge(result, splits, problem.config)
        certificate = certify_if_useful(result.model, splits, problem.config, progress)
        certified = {"certificate": certificate_summary(certificate)} if certificate else {}
        run.add_to_summary((judgement.summary if judgement else {}) | certified)
        of_test = judgement.evaluation if judgement and splits.test.weight > 0 else None
        draw_run(run, plan, result.state.history, result.model, splits, progress, evaluation=of_test)
        if message["onnx"]:
            write(result.model, path / "model.onnx")
        if message["report"]:
            _write_report(path, data, progress)
        files = sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
    accuracy = {name: score.accuracy for name, score in result.scores.items()}
    return {"run": str(path), "path": str(path.resolve()), "files": files, "accuracy": accuracy}


def _write_report(path: Path, data: Data, progress: Progress) -> None:
    from onelayer.pictures.page import ignore_styles
    from onelayer.report.html import render
    from onelayer.report.subject import read_subject

    ignore_styles()
    page = render(read_subject([path]), lambda _: data.splits, progress)
    write_over(path / "report.html", page.encode(), is_report)


def _run_name(name: str) -> str:
    """Return the name of a folder directly below another."""
    name = name.strip()
    if not is_name(name) or name.startswith(".") or any(letter in '/\\:*?"<>|' for letter in name):
        raise MessageError(f"a run cannot be called {name!r:.80}: use letters, numbers, - and _")
    return name
