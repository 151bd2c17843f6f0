"""Drawing a finished run: all its pictures, written into its directory."""

from collections.abc import Callable

from onelayer.analysis.evaluation import evaluate
from onelayer.data.dataset import Splits
from onelayer.model import Model
from onelayer.pictures.figures import figures_of_run
from onelayer.pictures.page import ignore_styles
from onelayer.runs.directory import FIGURES, Run
from onelayer.runs.plan import Plan
from onelayer.training.state import History


def draw_run(
    run: Run,
    plan: Plan,
    history: History,
    model: Model,
    splits: Splits,
    progress: Callable[[int, int], None],
    *,
    report_test: bool = True,
) -> None:
    """Write the pictures of a run into its directory; `report_test` false leaves the test rows alone."""
    ignore_styles()
    title = f"{splits.dataset.name}, protocol {splits.protocol}: {plan.config.in_words()}"
    test = splits.test if report_test else None
    pictures = figures_of_run(history, model, test, evaluate(model, test) if test else None, title)
    for number, (name, figure) in enumerate(pictures, 1):
        run.write_figure(name, figure)
        progress(number, len(FIGURES))
