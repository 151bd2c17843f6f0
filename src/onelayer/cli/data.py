"""The commands that describe data and check gradients."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.config import SourceConfig

if TYPE_CHECKING:  # each command loads the rooms that it needs, --help none
    pass

RunArgument = Annotated[Path, Parameter(name="RUN")]


@app.command
def data(
    source: str = "auto",
    /,
    *,
    source_config: Annotated[SourceConfig, Parameter(name="*")] = SourceConfig(),
) -> None:
    """Tell what a source of data holds.

    Parameters
    ----------
    source
        As --data of train takes it.
    """
    from onelayer.cli.results import print_dataset
    from onelayer.cli.screen import Screen
    from onelayer.data import load

    screen = Screen()
    with screen.working("reading") as progress:
        dataset = load(source, source_config, progress=progress)
    print_dataset(screen, dataset)


@app.command
def check(*, data: str = "auto", samples: int = 3, features: int = 10, classes: int = 10, seed: int = 42) -> None:
    """Compare the hand-written gradients with PyTorch, complex steps and central differences; exit 1 if they differ.

    Parameters
    ----------
    data
        Where the rows come from; as --data of train takes it.
    samples
        Rows (n).
    features
        Features of each row (d), evenly spaced over the pixels.
    classes
        Classes (K).
    seed
        Of the weights.
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
    X, y = sample_rows(dataset, samples, features, classes)
    screen.say(f"{dataset.name}: n = {samples} rows, d = {features} features, K = {classes} classes, float64")
    reports = []
    for loss in LOSSES:
        with screen.working(f"checking {loss}") as progress:
            reports.append(check_gradients(X, y, n_classes=classes, loss=loss, seed=seed, progress=progress))
    print_gradients(screen, reports)
    if not all(report.passed for report in reports):
        sys.exit(1)
