"""Draw a finished run: all its pictures, written into its directory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.features.patches import Patches
from onelayer.model import Model
from onelayer.pictures.confusion import confusion
from onelayer.pictures.curves import cost_is_loss, cost_note, curve
from onelayer.pictures.mistakes import mistakes
from onelayer.pictures.page import ignore_styles, legible
from onelayer.pictures.patches import SPEAKING, no_picture, speaking_patches
from onelayer.pictures.templates import signed_templates, start_in_words, strongest_weights, templates
from onelayer.runs.directory import PICTURES, Run
from onelayer.runs.plan import Plan
from onelayer.training.class_weights import BY_CLASS
from onelayer.training.history import History, noun_of, table_of


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
    """Write the pictures of a complete run into its directory; `report_test` false leaves the test rows alone.

    `evaluation` is that of the model on the test rows, if there is one already.
    """
    ignore_styles()
    settings = f"{splits.dataset.name}, protocol {splits.protocol}: {plan.config.in_words()}"
    if plan.config.learning_rate == "auto" and history:
        settings = settings.replace("learning rate auto", f"learning rate auto ({history[0].learning_rate:.3g})")
    test = splits.test if report_test else None
    if test and evaluation is None:
        evaluation = evaluate(model, test)
    learnt, kept_epoch = run.learnt, run.kept_epoch
    pictures = figures_of_run(history, model, test, evaluation, settings, kept_epoch, learnt, plan.config, splits.train)
    for number, (name, figure) in enumerate(pictures, 1):
        run.write_figure(name, figure)
        progress(number, len(PICTURES))


def figures_of_run(
    history: History,
    model: Model,
    test: Split | None,
    evaluation: Evaluation | None,
    settings: str,
    kept_epoch: int | None = None,
    learnt: np.ndarray | None = None,
    config: TrainConfig | None = None,
    train: Split | None = None,
) -> Iterator[tuple[str, Figure]]:
    """Draw the pictures of a run one at a time: curves, weights, confusion, mistakes.

    The weights are drawn as templates, as patches that speak for and against classes, or as bars.

    Parameters
    ----------
    history : tuple of EpochRecord
    model : Model
    test : Split or None
        The rows of the confusion and the mistakes; without them, neither is drawn.
    evaluation : Evaluation or None
        Of `model` on `test`.
    settings : str
        Data set and settings, which stand below the title of each picture.
    kept_epoch : int, optional
        The epoch of which the model is; by default the last.
    learnt : ndarray (d, K), optional
        The weights of the model less what is left of the initial ones; None where these were 0 or are not known.
    config : TrainConfig, optional
        Settings of the training; None if they are not known.
    train : Split, optional
        Training rows, whose patches show the filters of a model on patch features.

    Yields
    ------
    name : str
        A file name without its suffix.
    figure : Figure
    """
    # Names that the font cannot show would look alike.
    names = [name if legible(name) == name else f"{k}: {name}" for k, name in enumerate(model.class_names)]
    of_model = settings
    weighted = f" ({BY_CLASS})" if config and config.class_weight != "none" else ""
    restarts = config is not None and config.decay_every == "auto"
    if history:
        kept_epoch = history[-1].epoch if kept_epoch is None else kept_epoch
        columns = table_of(history)
        noun = noun_of(columns)
        for what in ("loss", "cost", "accuracy"):
            title = f"{what.capitalize()} by {noun}{weighted}\n{settings}"
            same = what == "cost" and cost_is_loss(columns)
            if same:
                yield what, cost_note(title)
            else:
                yield what, curve(columns, what, title, kept_epoch=kept_epoch, restarts=restarts)
        of_model += f"; the model of {noun} {kept_epoch:,} of {history[-1].epoch:,}"
    of_weights = f"{of_model}\n{start_in_words(config.init_std if config else None, learnt)}"
    yield from _weights(model, names, of_weights, learnt, train)
    if test is None or evaluation is None:
        return
    yield "confusion", confusion(evaluation.confusion, names, f"Confusion of the {test.name} rows\n{of_model}")
    if model.image_shape is not None:
        worst = evaluation.worst_mistakes(12)
        images = test.rows(worst).reshape(-1, *model.image_shape)
        truths, guesses = evaluation.labels[worst], evaluation.predictions[worst]
        guessed = evaluation.probabilities[worst, guesses]
        shown = [names[k] for k in truths], [names[k] for k in guesses]
        title = f"The most confident mistakes on the {test.name} rows\n{of_model}"
        yield "mistakes", mistakes(images, shown[0], shown[1], guessed, title)


def _weights(
    model: Model, names: Sequence[str], settings: str, learnt: np.ndarray | None, train: Split | None
) -> Iterator[tuple[str, Figure]]:
    """Draw the weights of a model, or what it has learnt where that is known."""
    of = "Weights" if learnt is None else "Learnt weights"
    if (shape := model.template_shape) is not None:
        flat = model.on_raw_rows
        weights, standardizer = flat.layer.weights, flat.standardizer
        title = f"Templates, each in its own range\n{settings}"
        if learnt is not None:
            learnt = model.with_weights(learnt).on_raw_rows.layer.weights
        yield "templates", templates(weights, names, shape, title, learnt)
        drawn = weights if learnt is None else learnt
        title = f"{of} on one scale\n{settings}"
        yield "templates_signed", signed_templates(drawn, standardizer, names, shape, title)
        return
    drawn = model.layer.weights if learnt is None else learnt
    if isinstance(model.features, Patches):
        named = replace(model, class_names=tuple(names))
        yield "patches", speaking_patches(named, drawn, train, f"{SPEAKING}\n{settings}")
    else:
        title = f"The strongest {of.lower()}\n{no_picture(model)}\n{settings}".replace("\n\n", "\n")
        yield "weights", strongest_weights(drawn, model.standardizer, names, title)
