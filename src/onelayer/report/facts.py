"""Facts of a report: settings and data, commands that train again, comparisons, and the gradient check."""

import shlex
from dataclasses import replace
from typing import Any

import numpy as np

from onelayer.analysis.certification import certificate_summary, certify_if_useful
from onelayer.analysis.estimates import Estimate
from onelayer.analysis.evaluation import evaluate
from onelayer.analysis.gradcheck import check_gradients, sample_rows
from onelayer.config import COURSEWORK, PATH_L2, SplitConfig, TrainConfig, settings_of_others
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.formats.array_note import in_words
from onelayer.errors import OnelayerError
from onelayer.experiments.comparison import compare_answers
from onelayer.experiments.lambdas import LambdaPath, read_path
from onelayer.experiments.pairing import names_by_difference, right_rows, shared_settings
from onelayer.losses import LOSSES
from onelayer.report.opening import accuracy_on
from onelayer.report.subject import Group, SettingRuns
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import probe_of, strength_in_words
from onelayer.training.history import columns_of, noun_of
from onelayer.words import mean_and_sd, option_typed, option_value, options_apart, printable, spaced

COMMAND_WIDTH = 88  # characters in a line
MOST_VERDICTS = 24  # settings that are compared with the best
MOST_PROBABILITIES = 20_000_000  # of the rows of a split, up to which these are evaluated for their intervals

BOUNDED = (
    "This is proven: no weights have a cost on these rows that is lower by more. It says nothing about other rows, and "
    "if the number is large, the bound may be weak and the layer good."
)
UNBOUNDED = "Without a penalty there is no bound for all weights, as larger weights may have a lower cost without end."


def facts(setting: SettingRuns, splits: Splits) -> dict[str, list[tuple[str, str]]]:
    """Return names and values of the training, the settings, the data, and the machine's versions and time."""
    dataset, plan, summary = splits.dataset, setting.plan, setting.runs[0].summary
    n, d = dataset.rows.shape
    official = {
        True: "the published files, to the last bit",
        False: "not the published files",
        None: "no files are published",
    }
    duplicates = [
        f"{count:,} {pair.replace(' in ', ' rows in ')}" for pair, count in splits.duplicates.items() if count
    ]
    data = [
        ("name", dataset.name),
        ("source", plan.source),
        *([("made by", in_words(dataset.made_by))] if dataset.made_by else []),
        ("SHA-256", dataset.fingerprint),
        ("files", official[dataset.official]),
        ("rows", f"{n:,} of {d:,} {dataset.rows.dtype} numbers, {len(dataset.class_names)} classes"),
        ("protocol", splits.protocol),
        *(
            (f"{part.name} rows", f"{len(part):,}" + ", trained on" * (splits.label(part.name) != part.name))
            for part in splits
        ),
        ("duplicates", ", ".join(duplicates) or "no row of a split is in an earlier one"),
    ]
    versions = summary.get("versions")
    arithmetic = " on ".join(str(summary[name]) for name in ("backend", "device") if name in summary)
    made = [(str(name), str(version)) for name, version in versions.items()] if isinstance(versions, dict) else []
    return {
        "Training": training(setting.runs[0]),
        "Settings": _settings(setting.runs[0], plan.config),
        "Data": data,
        "Made with": [*made, ("arithmetic", arithmetic)],
    }


def _settings(run: Run, config: TrainConfig) -> list[tuple[str, str]]:
    """Return the settings of a training, and those of a probe; of a probe in closed form, these alone."""
    others = settings_of_others(config.solver)
    found = [(spaced(name), option_value(value)) for name, value in vars(config).items() if name not in others]
    if (probe := probe_of(run)) is None:
        return found
    of_probe = [(name, str(probe.get(name))) for name in ("recipe", "normalize")]
    if probe.get("setting"):
        of_probe.append((f"{probe['setting']}, chosen", option_value(probe.get("chosen"))))
    return of_probe + found * (config.solver == "converged")


def training(run: Run) -> list[tuple[str, str]]:
    """Return what is known of a training's course: its dates, its epochs and why it ended; a probe may have none."""
    summary, history = run.summary, run.read_checkpoint()[1].history
    dates = summary.get("dates")
    found = (
        [(f"{name} (UTC)", str(date).replace("T", " ")[:16]) for name, date in dates.items() if date]
        if isinstance(dates, dict)
        else []
    )
    if probe_of(run) and not history:
        return [*found, ("end", str(summary.get("ended")))]
    noun = noun_of(columns_of(history))
    found += [(f"{noun}s", f"{len(history):,}"), ("model", f"of {noun} {run.kept_epoch:,}")]
    found += [("end", str(summary["ended"]))] if summary.get("ended") else []
    rate = summary.get("learning_rate")
    found += [("first learning rate", f"{rate:.4g}")] if isinstance(rate, float) else []
    return [*found, ("time", f"{sum(record.seconds for record in history):.1f} s")]


def scores(setting: SettingRuns, splits: Splits) -> list[tuple[str, ...]]:
    """Return name, loss, cost and accuracy of each split in words, and the balanced accuracy of a run, if it is known.

    They are those of a run with their 95 % intervals, or of several means and standard deviations.
    """
    if len(setting.runs) > 1:
        return [
            (splits.label(name), _nats(setting, name, "loss"), _nats(setting, name, "cost"), _percent(setting, name))
            for name in setting.splits
        ]
    return [(splits.label(name), *_estimated(setting.runs[0], getattr(splits, name))) for name in setting.splits]


def _nats(setting: SettingRuns, split: str, what: str) -> str:
    mean, sd = setting.mean_sd(split, what)
    return f"{mean:.4f} ± {sd:.4f} nats"


def _percent(setting: SettingRuns, split: str) -> str:
    return f"{mean_and_sd(*setting.mean_sd(split))} %"


def _estimated(run: Run, split: Split) -> tuple[str, ...]:
    """Return loss, cost and accuracy of a run on a split, with intervals where its rows can be evaluated at once."""
    model, score = run.model, run.scores[split.name]
    if not 0 < len(split) * len(model.class_names) <= MOST_PROBABILITIES:
        return f"{score.loss:.4f} nats", f"{score.cost:.4f} nats", accuracy_on(split, score.accuracy).in_words()
    found, penalty = evaluate(model, split).estimates, score.cost - score.loss
    loss = found["loss"]
    cost = Estimate(loss.value + penalty, loss.low + penalty, loss.high + penalty, loss.unit)
    shown = (loss, cost, found["accuracy"], found["balanced_accuracy"])
    return tuple(estimate.in_words() for estimate in shown)


def certificate(setting: SettingRuns, splits: Splits) -> tuple[str, str] | None:
    """Return the certificate of the first run and its meaning; None where there is none.

    It is the recorded one, else computed where the training had a penalty.
    """
    run = setting.runs[0]
    recorded = run.summary.get("certificate")
    if not isinstance(recorded, dict):
        found = certify_if_useful(run.model, splits, run.config)
        recorded = found and certificate_summary(found)
    if not recorded:
        return None
    said = printable(str(recorded.get("sentence")), 200)
    seed = f", seed {setting.seeds[0]}" if len(setting.runs) > 1 else ""
    alike = "" if run.config.class_weight == "none" else "; in the tables, all rows count alike"
    rows = f"{printable(str(recorded.get('rows')), 200)}{seed}{alike}"
    meaning = BOUNDED if recorded.get("l2") else UNBOUNDED
    chosen = strength_in_words(run)
    return f"{said} ({rows}).", f"{meaning} {chosen[0].upper()}{chosen[1:]}." if chosen else meaning


def train_command(setting: SettingRuns) -> str:
    """Return the command that trains the same again, once for each seed, or goes along the path or probes again."""
    plan = setting.plan
    if probe := probe_of(setting.runs[0]):
        words = [f"onelayer probe {shlex.quote(plan.source)}", *_options_of_probe(probe, plan)]
        return _in_lines(words)
    words = [f"--data {shlex.quote(plan.source)}"]
    words += [
        *options_apart(plan.source_config, type(plan.source_config)()),
        *options_apart(plan.split_config, SplitConfig()),
    ]
    if path := read_path(setting.runs[0]):
        return _in_lines(["onelayer path", *words, *_options_of_path(path, plan.config)])
    words = ["onelayer train", *words]
    config = replace(plan.config, seed=TrainConfig.seed)
    preset = ["--preset coursework", *options_apart(config, COURSEWORK)]
    plain = options_apart(config, TrainConfig())
    words += preset if len(preset) < len(plain) else plain
    if len(setting.seeds) > 1:
        words = [f"for seed in {' '.join(map(str, setting.seeds))}; do {words[0]}", *words[1:], '--seed "$seed"; done']
    elif setting.seeds != (TrainConfig.seed,):
        words.append(f"--seed {setting.seeds[0]}")
    return _in_lines(words)


def _options_of_probe(probe: dict[str, Any], plan: Plan) -> list[str]:
    options = [option_typed(name, probe.get(name)) for name in ("recipe", "normalize")]
    if plan.config.backend == "torch":
        options += [option_typed(name, getattr(plan.config, name)) for name in ("backend", "device")]
    return [*options, option_typed("split_seed", plan.split_config.split_seed)]


def _options_of_path(path: LambdaPath, config: TrainConfig) -> list[str]:
    l2s = [point.l2 for point in path.points]
    options = options_apart(replace(config, seed=TrainConfig.seed), TrainConfig(solver="converged", l2=config.l2))
    options += [f"--l2 {' '.join(map(str, l2s))}"] * (l2s != [*PATH_L2])
    options += [option_typed("select", path.select)] * (path.select != LambdaPath.select)
    return options + ["--one-standard-error"] * path.one_standard_error


def _in_lines(words: list[str]) -> str:
    """Return the words of a command in lines for a shell."""
    lines = words[:1]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < COMMAND_WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)


def verdicts(group: Group, splits: Splits) -> tuple[str, list[str]]:
    """Compare each setting with the first; return the name of the rows that all were scored on, and the verdicts."""
    shown = group.settings[:MOST_VERDICTS]
    split = "test" if all(setting.split == "test" for setting in shown) else "validation"
    rows: Split = getattr(splits, split)
    answers = [dict(zip(setting.seeds, right_rows(setting.runs, rows), strict=True)) for setting in shown]
    first = answers[0]
    verdicts = ["the best on validation"]
    for setting, other in zip(shown[1:], answers[1:], strict=True):
        seeds = sorted(first.keys() & other.keys())
        if not seeds:
            verdicts.append("no seed in common")
            continue
        ours, theirs = (np.array([side[seed] for seed in seeds]) for side in (first, other))
        weights = rows.row_weights(slice(None))
        names = names_by_difference(*shared_settings(shown[0].plan.config, setting.plan.config))
        verdicts.append(compare_answers(ours, theirs, weights, names=names).verdict())
    return split, verdicts + ["not compared"] * (len(group.settings) - len(shown))


def gradients(dataset: Dataset) -> dict[str, Any]:
    """Return the gradients of all losses against each oracle, as `onelayer check` compares them."""
    d, K = min(10, dataset.rows.shape[1]), min(10, len(dataset.class_names))
    try:
        X, y = sample_rows(dataset, 3, d, K)
        reports = [check_gradients(X, y, n_classes=K, loss=loss) for loss in LOSSES]
    except OnelayerError as error:
        return {"reason": f"The gradients could not be checked on these rows: {error}."}
    return {
        "reason": "",
        "sizes": (3, d, K),
        "rows": [pair for report in reports for pair in report.gradients],
        "skipped": sorted({reason for report in reports for reason in report.skipped.values()}),
        "passed": all(report.passed for report in reports),
    }
