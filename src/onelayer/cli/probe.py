"""The command that probes features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import DATA, OUTPUT, TRAINING, OutDirectory, Overwrite, Quiet
from onelayer.errors import ConfigError

if TYPE_CHECKING:  # imported in the command, so that --help stays fast
    from onelayer.cli.screen import Screen
    from onelayer.experiments.probe import Probe


@app.command(usage="Usage: onelayer probe [OPTIONS] FEATURES")
def probe(
    features: Annotated[str, Parameter(name="FEATURES", group=DATA)],
    /,
    *,
    recipe: Annotated[Literal["dino", "ridge", "knn", "nearest-mean"], Parameter(group=TRAINING)] = "dino",
    normalize: Annotated[Literal["none", "unit", "standardize"], Parameter(group=TRAINING)] = "none",
    split_seed: Annotated[int, Parameter(group=DATA)] = 0,
    out: OutDirectory = None,
    overwrite: Overwrite = False,
    csv: Annotated[Path | None, Parameter(group=OUTPUT, allow_leading_hyphen=True)] = None,
    as_json: Annotated[bool, Parameter(name="--json", group=OUTPUT)] = False,
    quiet: Quiet = False,
) -> None:
    """Fit classifiers on features of a network; the validation rows choose one, which the test rows judge once.

    Parameters
    ----------
    features
        File or folder of features and labels, as --data of train takes it.
    recipe
        Protocol. dino: logistic regression at 45 values of C; ridge: regression on the labels, in closed form;
        knn: the k nearest by cosine; nearest-mean: the class whose mean is nearest.
    normalize
        Scale: none keeps the features, unit divides each row by its length, standardize each feature by its deviation.
    split_seed
        Seed for the validation rows, a tenth of the training rows, and the test rows if the source has none.
    out
        Run directory to write; by default the next free one in runs/.
    csv
        CSV file to write, a probe in a line, or - to print it instead of tables; an earlier one is replaced.
    as_json
        Print all that was tried and all figures as JSON instead of tables.
    """
    from onelayer.cli.screen import Screen, json_text
    from onelayer.experiments import probe as probes
    from onelayer.files import write_over
    from onelayer.runs.claim import claimed
    from onelayer.runs.directory import Run

    csv_printed = csv == Path("-")
    if as_json and csv_printed:
        raise ConfigError("--json and --csv - both print their figures; write the CSV into a file")
    screen = Screen(quiet or as_json or csv_printed)
    with screen.working("reading") as progress:
        splits, split_config = probes.load_features(features, split_seed, progress)
    screen.data(splits)
    with screen.working("probing") as progress:
        found = probes.probe(splits, recipe, normalize, progress)
    record = found.record()
    if found.outcome.model:
        with claimed(out, Path("runs") / f"{splits.dataset.name.lower()}-{recipe}") as path:
            probes.save(found, Run.create(path, overwrite=overwrite), split_config)
        record = {"run": str(path), **record}
    _print(screen, found)
    if found.outcome.model:
        screen.files(path)
    if as_json:
        print(json_text(record))
    if csv:
        text = probes.csv_of_probes([found])
        if csv_printed:
            print(text, end="")
        else:
            write_over(csv, text.encode(), lambda content: content.startswith(text.partition("\n")[0].encode()))
            screen.say(str(csv))


def _print(screen: "Screen", found: "Probe") -> None:
    """Print the values that were tried, the chosen one, and the figures of the test rows."""
    from onelayer.experiments.probe import NORMALIZED
    from onelayer.words import percent

    screen.say(f"recipe {found.recipe}, normalize {found.normalize}: {NORMALIZED[found.normalize]}\n")
    if chosen := found.outcome.chosen:
        trials = found.outcome.trials
        iterated = chosen.passes is not None
        rows = [
            [f"{trial.value:.3g}", percent(trial.accuracy)]
            + ([f"{trial.passes:g}", "" if trial.converged else "no"] if iterated else [])
            for trial in trials
        ]
        columns = [found.setting, "validation", *["passes", "converged"] * iterated]
        screen.table(*columns, rows=rows, words=0)
        screen.say(
            f"\nchosen by validation accuracy, {percent(chosen.accuracy)}: {found.setting} {chosen.value:.4g}; "
            "fitted again with the validation rows"
        )
    screen.say(f"{found.evaluation.rows_in_words()}, read once")
    rows = [[name, figure.number(), figure.interval()] for name, figure in found.figures.items()]
    screen.table("", "probe", "95 % interval", rows=rows)
    for note in found.notes():
        screen.say(f"note: {note}")
