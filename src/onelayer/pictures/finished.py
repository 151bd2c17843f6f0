"""Draw a finished run: all its pictures, written into its directory."""

from collections.abc import Callable, Iterator

from matplotlib.figure import Figure

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.data.dataset import Split, Splits
from onelayer.model import Model
from onelayer.pictures.curves import cost_curve, loss_curve
from onelayer.pictures.mistakes import confusion, mistakes
from onelayer.pictures.page import ignore_styles, legible
from onelayer.pictures.templates import signed_templates, strongest_weights, templates
from onelayer.runs.directory import PICTURES, Run
from onelayer.runs.plan import Plan
from onelayer.training.history import History


def draw_run(
    run: Run,
    plan: Plan,
    history: History,
    model: Model,
    splits: Splits,
    progress: Callable[[int, int], None],
    *,
    report_test: bool = True,
    evaluation: Evaluation | None = None,
) -> None:
    """Write the pictures of a run into its directory; `report_test` false leaves the test rows alone.

    `evaluation` is that of the model on the test rows, if it is known already.
    """
    ignore_styles()
    title = f"{splits.dataset.name}, protocol {splits.protocol}: {plan.config.in_words()}"
    test = splits.test if report_test else None
    if test and evaluation is None:
        evaluation = evaluate(model, test)
    pictures = figures_of_run(history, model, test, evaluation, title)
    for number, (name, figure) in enumerate(pictures, 1):
        run.write_figure(name, figure)
        progress(number, len(PICTURES))


def figures_of_run(
    history: History, model: Model, test: Split | None, evaluation: Evaluation | None, title: str
) -> Iterator[tuple[str, Figure]]:
    """Draw the pictures of a run one at a time: curves, templates or strongest weights, confusion, mistakes.

    Parameters
    ----------
    history : tuple of EpochRecord
    model : Model
    test : Split or None
        The rows of the confusion and the mistakes; without them, neither is drawn.
    evaluation : Evaluation or None
        Of `model` on `test`.
    title : str
        Data set and settings.

    Yields
    ------
    name : str
        A file name without its suffix.
    figure : Figure
    """
    # Names that the font cannot show would look alike.
    names = [name if legible(name) == name else f"{k}: {name}" for k, name in enumerate(model.class_names)]
    if history:
        yield "loss", loss_curve(history, f"Loss. {title}")
        yield "cost", cost_curve(history, f"Cost. {title}")
    if (shape := model.template_shape) is not None:
        flat = model.on_raw_rows
        weights, standardizer = flat.layer.weights, flat.standardizer
        yield "templates", templates(weights, names, shape, f"Templates, each in its own range. {title}")
        signed = f"Templates on one scale. {title}"
        yield "templates_signed", signed_templates(weights, standardizer, names, shape, signed)
    else:
        weights, standardizer = model.layer.weights, model.standardizer
        yield "weights", strongest_weights(weights, standardizer, names, f"Strongest weights. {title}")
    if test is None or evaluation is None:
        return
    yield "confusion", confusion(evaluation.confusion, names, f"Confusion on the test rows. {title}")
    if model.image_shape is not None:
        worst = evaluation.worst_mistakes(12)
        images = test.rows(worst).reshape(-1, *model.image_shape)
        truths, guesses = evaluation.labels[worst], evaluation.predictions[worst]
        guessed = evaluation.probabilities[worst, guesses]
        shown = [names[k] for k in truths], [names[k] for k in guesses]
        yield "mistakes", mistakes(images, shown[0], shown[1], guessed, f"The most confident mistakes. {title}")
