"""The commands that describe data and check gradients."""

import sys
from typing import Annotated

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import Data, Source
from onelayer.config import SourceConfig


@app.command(usage="Usage: onelayer data [OPTIONS] [SOURCE]")
def data(
    source: Annotated[Data, Parameter(name="SOURCE")] = "auto",
    /,
    *,
    source_config: Source = SourceConfig(),
) -> None:
    """Describe a source of data: its rows, parts and classes."""
    from onelayer.cli.results import print_dataset
    from onelayer.cli.screen import Screen
    from onelayer.data import load

    screen = Screen()
    with screen.working("reading") as progress:
        dataset = load(source, source_config=source_config, progress=progress)
    print_dataset(screen, dataset)


@app.command
def check(
    *, data: Data = "auto", samples: int = 3, n_features: int = 10, classes: int | None = None, seed: int = 42
) -> None:
    """Compare the hand-written gradients with PyTorch, complex steps and central differences; exit 1 if they differ.

    Parameters
    ----------
    samples
        Number of rows (n).
    n_features
        Number of features of each row (d), evenly spaced over the pixels.
    classes
        Number of classes (K); by default 10, or all if the data have fewer.
    seed
        Seed for the weights.
    """
    from onelayer.analysis.gradcheck import check_gradients, sample_rows
    from onelayer.cli.results import print_gradients
    from onelayer.cli.screen import Screen
    from onelayer.data.sources import load_preferred
    from onelayer.losses import LOSSES

    screen = Screen()
    with screen.working("reading") as progress:
        dataset = load_preferred(data, ("data_batch_1",), progress=progress)
    screen.notes(dataset)
    classes = min(10, len(dataset.class_names)) if classes is None else classes
    X, y = sample_rows(dataset, samples, n_features, classes)
    screen.say(f"{dataset.name}: n = {samples} rows, d = {n_features} features, K = {classes} classes, float64")
    reports = []
    for loss in LOSSES:
        with screen.working(f"checking {loss}") as progress:
            reports.append(check_gradients(X, y, n_classes=classes, loss=loss, seed=seed, progress=progress))
    print_gradients(screen, reports)
    if not all(report.passed for report in reports):
        sys.exit(1)
