"""The commands that evaluate, certify and export a finished model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import DATA, OUTPUT, MovedData, RunArgument
from onelayer.errors import ConfigError, OnelayerError

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.data.dataset import Split, Splits
    from onelayer.model import Model
    from onelayer.runs.plan import Plan
    from onelayer.training.certificate import Certificate


@app.command
def evaluate(
    run_directory: RunArgument,
    /,
    *,
    data: Annotated[
        str | None,
        Parameter(
            group=DATA,
            help="Another source of rows, as --data of train takes it, with classes of the same names; "
            "or the new place of the run's own data.",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"] | None,
        Parameter(
            help="Rows to evaluate; all takes those of every split. "
            "By default test, but all if another source has no test part."
        ),
    ] = None,
    as_json: Annotated[bool, Parameter(name="--json", group=OUTPUT)] = False,
    csv: Annotated[Path | None, Parameter(name="--csv", group=OUTPUT, allow_leading_hyphen=True)] = None,
) -> None:
    """Print the figures of a model with their 95 % intervals, beside those of references.

    Parameters
    ----------
    as_json
        Print all figures as JSON instead of tables.
    csv
        CSV file to write, a class in a line, or - to print it instead of tables; an earlier one is replaced.
    """
    from onelayer.analysis.advice import advice_on_answers, sees_pictures
    from onelayer.analysis.certification import certificate_summary
    from onelayer.analysis.evaluation import evaluate
    from onelayer.analysis.references import references_for, verdict_of
    from onelayer.analysis.summary import csv_of, summary_of
    from onelayer.cli.results import print_certificate, print_evaluation
    from onelayer.cli.screen import Screen, json_text
    from onelayer.files import write_over
    from onelayer.runs.directory import Run
    from onelayer.runs.training import strength_in_words

    csv_printed = csv == Path("-")
    if as_json and csv_printed:
        raise ConfigError("--json and --csv - both print their figures; write the CSV into a file")
    screen = Screen(quiet=as_json or csv_printed)
    run = Run.open(run_directory)
    plan, state = run.read_checkpoint()
    model = run.model
    with screen.working("reading") as progress:
        rows, splits, note = plan.rows_to_evaluate(data, split, model, progress)
        trained_on, missing = (splits.train, None) if splits else _training_rows(plan, progress)
    with screen.working("certifying") as progress:
        trained = splits if splits and rows is splits.train else None
        certificate, unknown = _certificate(plan, model, trained, progress)
    screen.notes(rows.dataset)
    notes = [*filter(None, [note, missing, unknown])]
    for note in notes:
        screen.say(f"note: {note}")
    evaluation = evaluate(model, rows)
    references = references_for(model, trained_on, rows, evaluation) if trained_on else []
    verdict = verdict_of(evaluation, references, plan.config)
    advice = run.advice_on(evaluation.name)
    if advice is None:
        settled = state.epoch > 0 and not run.summary.get("advice")
        advice = advice_on_answers(evaluation, verdict, plan.config, settled=settled, pictures=sees_pictures(model))
    print_evaluation(screen, evaluation, references, verdict, advice)
    if certificate:
        screen.say("")
        print_certificate(screen, certificate, run, plan.config, state.history)
        if chosen := strength_in_words(run):
            screen.say(chosen)
    if as_json:
        found = summary_of(evaluation, references, verdict)
        certified = {"certificate": certificate_summary(certificate)} if certificate else {}
        all_notes = [*rows.dataset.notes, *notes]
        print(json_text({"run": str(run.path), "notes": all_notes, **found, "advice": advice, **certified}))
    if csv:
        text = csv_of(evaluation.by_class)
        if csv_printed:
            print(text, end="")
        else:
            write_over(csv, text.encode(), lambda content: content.startswith(text.partition("\n")[0].encode()))
            screen.say(str(csv))


@app.command
def certify(
    run_directory: RunArgument,
    /,
    *,
    data: MovedData = None,
    as_json: Annotated[bool, Parameter(name="--json", group=OUTPUT)] = False,
) -> None:
    """Print how far the cost of a model is above the lowest cost possible, with a proof; no accuracy follows from it.

    The cost is what training lowers: the mean loss of the training rows, plus lambda (--l2) times the sum of the
    squared weights. If the model is far from the lowest cost, the converged solver looks for a better bound first.

    Parameters
    ----------
    as_json
        Print all figures as JSON instead of sentences.
    """
    from onelayer.analysis.certification import certificate_summary, certify_closely
    from onelayer.cli.results import print_close_certificate
    from onelayer.cli.screen import Screen, json_text
    from onelayer.runs.directory import Run
    from onelayer.runs.training import probe_of, strength_in_words

    screen = Screen(quiet=as_json)
    run = Run.open(run_directory)
    plan, _ = run.read_checkpoint()
    if (probe := probe_of(run)) and not probe.get("l2"):
        raise ConfigError(f"{run.path} is a probe by {probe.get('recipe')}, which does not minimise this cost")
    model = run.model
    with screen.working("reading") as progress:
        splits = plan.load_splits(data, progress)
    with screen.working("certifying") as progress:
        certificate, own = certify_closely(model, splits, plan.config, progress)
    print_close_certificate(screen, certificate, own)
    if chosen := strength_in_words(run):
        screen.say(chosen)
    if as_json:
        print(json_text({"run": str(run.path), **certificate_summary(certificate), "own_bound": own.bound}))


@app.command
def export(
    run_directory: RunArgument,
    out: Annotated[Path, Parameter(name="OUT")],
    /,
    *,
    format: Literal["onnx", "numpy", "sklearn"] | None = None,
) -> None:
    """Write a model for use without onelayer; it takes raw rows and returns probabilities.

    Parameters
    ----------
    out
        File to write: model.onnx, model.py (NumPy, with a .npz file), or model.joblib (scikit-learn; a pickle is code).
    format
        Format of the file; by default the ending of OUT decides.
    """
    from onelayer.cli.screen import Screen
    from onelayer.export import write
    from onelayer.runs.directory import Run

    screen = Screen()
    files = write(Run.open(run_directory).model, out, format)
    for file in files:
        screen.say(f"{file}: {file.stat().st_size / 1e3:,.0f} kB")


def _certificate(
    plan: "Plan", model: "Model", splits: "Splits | None", progress: Callable[[int, int | None], None]
) -> "tuple[Certificate | None, str | None]":
    """Return the certificate of a model on its training rows; without it, a note with the reason."""
    from onelayer.analysis.certification import certify_model

    try:
        return (certify_model(model, splits, plan.config, progress) if splits else None), None
    except ConfigError as error:
        return None, f"without a certificate: {error}"


def _training_rows(plan: "Plan", progress: Callable[..., None]) -> "tuple[Split | None, str | None]":
    """Return the rows that a run was trained on, or None and a note where they cannot be read any more."""
    try:
        return plan.load_splits(None, progress).train, None
    except OnelayerError as error:
        return None, f"without references, which need the rows that the run was trained on: {error}"
