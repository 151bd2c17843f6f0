"""Helpers for tests of reports: a run, a sweep, and the page of either."""

from dataclasses import replace

from helpers import toy_dataset

from onelayer.config import COURSEWORK, SplitConfig
from onelayer.data.protocols import split
from onelayer.experiments.sweep import Sweep, SweepPlan, run_sweep
from onelayer.report.html import render
from onelayer.report.subject import read_subject
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import start
from onelayer.training.state import Problem

CONFIG = replace(COURSEWORK, epochs=5, learning_rate=0.003, l2=0.1)  # enough to be right often, not always
RATES = (0.0003, 0.003, 0.001)


def toy_run(path, config=CONFIG, report_test=True, **options):
    """A run on toy data, with its splits."""
    dataset = toy_dataset(**options)
    splits = split(dataset, SplitConfig())
    plan = Plan(config, SplitConfig(), "toy", dataset.fingerprint)
    start(Run.create(path), plan, Problem.of(splits, plan.config), report_test=report_test)
    return splits


def toy_sweep(path, seeds=(1, 2), report_test=True):
    dataset = toy_dataset()
    splits = split(dataset, SplitConfig())
    configs = tuple(replace(CONFIG, learning_rate=rate) for rate in RATES)
    sweep = Sweep.create(path, SweepPlan(configs, seeds, SplitConfig(), "toy", dataset.fingerprint))
    run_sweep(sweep, splits, workers=1, report_test=report_test)
    return sweep, splits


def page_of(path, splits):
    return render(read_subject([path]), lambda plan: splits)
