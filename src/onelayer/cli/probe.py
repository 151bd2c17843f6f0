"""The command that probes features."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import DATA, OUTPUT, TRAINING, OutDirectory, Overwrite, Quiet
from onelayer.errors import ConfigError
from onelayer.words import counted

if TYPE_CHECKING:  # imported in the command, so that --help stays fast
    from collections.abc import Iterator

    from onelayer.cli.screen import Screen
    from onelayer.config import SplitConfig, TrainConfig
    from onelayer.data.dataset import Splits
    from onelayer.experiments.comparison import Comparison
    from onelayer.experiments.probe import Normalize, Probe, RecipeName
    from onelayer.processes import Processes

SEEDS = 5  # by default


@app.command(usage="Usage: onelayer probe [OPTIONS] FEATURES...")
def probe(
    features: Annotated[list[str], Parameter(name="FEATURES", group=DATA)],
    /,
    *,
    recipe: Annotated[Literal["dino", "clip", "ridge", "knn", "nearest-mean"], Parameter(group=TRAINING)] = "dino",
    normalize: Annotated[Literal["none", "unit", "standardize"], Parameter(group=TRAINING)] = "none",
    shots: Annotated[list[int] | None, Parameter(group=TRAINING, consume_multiple=True)] = None,
    seeds: Annotated[int | None, Parameter(group=TRAINING)] = None,
    backend: Annotated[Literal["auto", "torch"], Parameter(group=TRAINING)] = "auto",
    device: Annotated[str, Parameter(group=TRAINING)] = "auto",
    split_seed: Annotated[int, Parameter(group=DATA)] = 0,
    out: OutDirectory = None,
    overwrite: Overwrite = False,
    csv: Annotated[Path | None, Parameter(group=OUTPUT, allow_leading_hyphen=True)] = None,
    html: Annotated[Path | None, Parameter(group=OUTPUT, allow_leading_hyphen=True)] = None,
    as_json: Annotated[bool, Parameter(name="--json", group=OUTPUT)] = False,
    quiet: Quiet = False,
) -> None:
    """Fit classifiers on features of a network; the validation rows choose one, which the test rows judge once.

    Several FEATURES of the same rows are compared with each other, as compare does.

    Parameters
    ----------
    features
        Files or folders of features and labels, as --data of train takes them.
    recipe
        Protocol: logistic regression (dino, clip), ridge regression, neighbours by cosine (knn) or the nearest mean.
    normalize
        Scale: none keeps the features, unit divides each row by its length, standardize each feature by its deviation.
    shots
        Training rows of each class, one number or several, such as 1 2 4 8 16; by default all, and a run is written.
    seeds
        Number of draws of the rows of --shots, by default 5; all FEATURES have the same ones.
    backend
        Code that does the products of dino and clip: auto takes the compiled kernel, else NumPy; torch is PyTorch.
    device
        Device of the backend torch, which cuda, cuda:1, ... and mps imply; auto with it takes the first GPU, else cpu.
    split_seed
        Seed for the validation rows, a tenth of the training rows, and the test rows if the source has none.
    out
        Run directory to write; by default the next free one in runs/.
    csv
        CSV file to write, a probe in a line, or - to print it instead of tables; an earlier one is replaced.
    html
        HTML page to write, with tables and curves, such as probe.html; an earlier one is replaced.
    as_json
        Print all that was tried and all figures as JSON instead of tables.
    """
    from onelayer.cli.stops import begun_again
    from onelayer.cli.together import together
    from onelayer.config import TrainConfig

    config = TrainConfig(solver="converged", backend=backend, device=device)
    asked = len(features), recipe, normalize, shots, seeds, split_seed, backend, device
    with together({"the settings": asked}) as processes, begun_again():
        _probe(
            *(processes, config, features, recipe, normalize, shots, seeds, split_seed),
            *(out, overwrite, csv, html, as_json, quiet),
        )


def _probe(
    processes: "Processes",
    config: "TrainConfig",
    features: list[str],
    recipe: "RecipeName",
    normalize: "Normalize",
    shots: list[int] | None,
    seeds: int | None,
    split_seed: int,
    out: Path | None,
    overwrite: bool,
    csv: Path | None,
    html: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from onelayer.cli.screen import Screen, json_text
    from onelayer.experiments import probe as probes
    from onelayer.files import write_file

    csv_printed = csv == Path("-")
    if as_json and csv_printed:
        raise ConfigError("--json and --csv - both print their figures; write the CSV into a file")
    _require_fitting(features, shots, seeds, out)
    probes.require_device(recipe, config)
    probes.require_processes(recipe, processes)
    if not processes.rank:
        _require_own(None if csv_printed else csv, html)  # before the work
    screen = Screen(quiet or as_json or csv_printed or processes.rank > 0)
    with screen.working("reading") as progress:
        loaded = [probes.load_features(source, split_seed, progress, processes) for source in features]
    for source, (splits, _) in zip(features[1:], loaded[1:], strict=True):
        probes.require_same_rows(loaded[0][0], splits, (features[0], source))
    found: dict[str, list[Probe]] = {}
    runs: dict[str, str] = {}
    for source, (splits, split_config) in zip(features, loaded, strict=True):
        screen.data(splits)
        if shots is not None:
            with screen.working("probing") as progress:
                found[source] = probes.probe_few(
                    splits, shots, range(seeds or SEEDS), recipe, normalize, progress, config
                )
            if not processes.rank:
                _print_few(screen, found[source])
        else:
            found[source] = [_whole(screen, splits, split_config, recipe, normalize, config, out, overwrite, runs)]
    if processes.rank:
        return
    compared = list(_compared(screen, found))
    everything = [probe for of_source in found.values() for probe in of_source]
    if as_json:
        records = [{"run": runs.get(probe.splits.dataset.source), **probe.record()} for probe in everything]
        print(json_text({"probes": records, "comparisons": [_record(*pair) for pair in compared]}))
    if csv:
        text = probes.csv_of_probes(everything)
        if csv_printed:
            print(text, end="")
        else:
            write_file(csv, text.encode())
            screen.say(str(csv))
    if html:
        placed = {name: runs.get(of_source[0].splits.dataset.source) for name, of_source in found.items()}
        files = {f"run on {name}": Path(place) for name, place in placed.items() if place}
        files |= {"CSV": csv} if csv and not csv_printed else {}
        _write_page(screen, html, found, compared, files, split_seed)


def _require_fitting(features: list[str], shots: list[int] | None, seeds: int | None, out: Path | None) -> None:
    """Raise an error if options have nothing to do, or contradict each other."""
    if out and (shots is not None or len(features) > 1):
        raise ConfigError("--out takes the run of one probe; leave it out with --shots or several FEATURES")
    if twice := [name for name in dict.fromkeys(features) if features.count(name) > 1]:
        raise ConfigError(f"{twice[0]} is given twice; leave one out")
    if seeds is not None and shots is None:
        raise ConfigError("--seeds draws the rows of --shots; add --shots, or remove --seeds")
    if seeds is not None and seeds < 1:
        raise ConfigError(f"--seeds {seeds} draws no rows; pass a number of at least 1")


def _require_own(csv: Path | None, html: Path | None) -> None:
    """Raise an error if a file is there that this command has not written."""
    from onelayer.files import is_report, require_own

    if csv:
        require_own(csv, lambda content: content.startswith(b"data,source,recipe,normalize,"))
    if html:
        if html.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"{html}: --html writes HTML; choose a name that ends in .html")
        require_own(html, is_report)


def _write_page(
    screen: "Screen",
    html: Path,
    found: "dict[str, list[Probe]]",
    compared: "list[tuple[str, str, int | None, Comparison]]",
    files: dict[str, Path],
    split_seed: int,
) -> None:
    from onelayer.files import is_report, write_over
    from onelayer.pictures.page import ignore_styles
    from onelayer.report.probes import render_probes

    ignore_styles()
    with screen.working("drawing"):
        places = [(name, str(place.resolve())) for name, place in files.items()]
        page = render_probes(found, compared, places, split_seed)
    write_over(html, page.encode(), is_report)
    screen.say(str(html))


def _compared(screen: "Screen", found: "dict[str, list[Probe]]") -> "Iterator[tuple[str, str, int | None, Comparison]]":
    """Yield every two features with their comparison, for each number of shots, and print its verdict."""
    from itertools import combinations

    from onelayer.experiments import probe as probes

    for a, b in combinations(found, 2):
        for count in dict.fromkeys(probe.shots for probe in found[a]):
            sides = [[probe for probe in found[side] if probe.shots == count] for side in (a, b)]
            comparison = probes.compare_probes(sides[0], sides[1], (a, b))
            of_shots = f"{counted(count, 'shot')}: " if count else ""
            screen.say(f"{of_shots}{a} against {b}: {comparison.verdict()}")
            yield a, b, count, comparison


def _record(a: str, b: str, count: int | None, comparison: "Comparison") -> dict[str, object]:
    """Return a comparison as JSON can hold it."""
    facts = {name: None if value != value else value for name, value in vars(comparison).items()}
    return {"a": a, "b": b, "shots": count, "verdict": comparison.verdict(), **facts}


def _whole(
    screen: "Screen",
    splits: "Splits",
    split_config: "SplitConfig",
    recipe: "RecipeName",
    normalize: "Normalize",
    config: "TrainConfig",
    out: Path | None,
    overwrite: bool,
    runs: dict[str, str],
) -> "Probe":
    """Probe with all training rows, print the result and write its run, whose place is noted."""
    from onelayer.experiments import probe as probes
    from onelayer.runs.claim import claimed
    from onelayer.runs.directory import Run, followed

    if not probes.RECIPES[recipe].makes_layer:
        if out:
            raise ConfigError(f"the recipe {recipe} makes no layer, so there is no run to write; leave --out out")
        with screen.working("probing") as progress:
            found = probes.probe(splits, recipe, normalize, progress, config)
        _print(screen, found)
        return found
    processes, default = splits.dataset.processes, Path("runs") / f"{splits.dataset.name.lower()}-{recipe}"
    with followed(processes) as follower, claimed(follower.path if follower else out, default) as path:
        run = follower or Run.create(path, overwrite=overwrite)
        with screen.working("probing") as progress:
            found = probes.probe(splits, recipe, normalize, progress, config)
        probes.save(found, run, split_config)
        if processes.rank:
            return found
        _print(screen, found)
        screen.files(path)
        run_words = shlex.quote(str(path))
        screen.say(f"pictures: onelayer figures {run_words}; a page: onelayer report {run_words}")
    runs[splits.dataset.source] = str(path)
    return found


def _print_few(screen: "Screen", found: "list[Probe]") -> None:
    """Print the means of the figures over the seeds, for each number of shots."""
    from onelayer.experiments.probe import NORMALIZED, notes_on_probes
    from onelayer.experiments.sweep import mean_sd
    from onelayer.words import mean_and_sd

    first = found[0]
    screen.say(f"recipe {first.recipe}, normalize {first.normalize}: {NORMALIZED[first.normalize]}")
    if first.setting:
        screen.say(f"{first.setting} is chosen on the validation rows, which are not trained on")
    rows = []
    for count in dict.fromkeys(probe.shots for probe in found):
        of_count = [probe.figures for probe in found if probe.shots == count]
        cells = (mean_and_sd(*mean_sd([figures[name].value for figures in of_count])) for name in of_count[0])
        rows.append([str(count), *cells])
    screen.table("shots", *(f"{name} (%)" for name in first.figures), rows=rows, words=0)
    seeds = len({probe.seed for probe in found})
    screen.say(f"mean ± standard deviation over {counted(seeds, 'draw')} of the training rows; --csv has the intervals")
    for note in notes_on_probes(found):
        screen.say(f"note: {note}")


def _print(screen: "Screen", found: "Probe") -> None:
    """Print the values that were tried, the chosen one, and the figures of the test rows."""
    from onelayer.experiments.probe import NORMALIZED
    from onelayer.words import number, percent

    screen.say(f"recipe {found.recipe}, normalize {found.normalize}: {NORMALIZED[found.normalize]}\n")
    if chosen := found.outcome.chosen:
        trials = found.outcome.trials
        iterated = chosen.passes is not None
        rows = [
            [number(trial.value), percent(trial.accuracy)]
            + ([f"{trial.passes:g}", "yes" if trial.converged else "no"] if iterated else [])
            for trial in trials
        ]
        columns = [found.setting, "validation", *["passes", "converged"] * iterated]
        screen.table(*columns, rows=rows, words=0)
        screen.say(f"\n{found.choice()}; fitted again with the validation rows")
    screen.say(f"{found.evaluation.rows_in_words()}, read once")
    rows = [[name, figure.number(), figure.interval()] for name, figure in found.figures.items()]
    screen.table("", "probe", "95 % interval", rows=rows)
    for note in found.notes():
        screen.say(f"note: {note}")
