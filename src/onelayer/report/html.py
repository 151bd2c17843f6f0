"""One HTML file that shows what runs learned: no script, font or picture comes from elsewhere.

`read_subject` finds out what there is to report and skips what is damaged, `render` makes the page. Numbers, pictures
and their descriptions are made here; `report.html.j2` says where they stand, and escapes every name.
"""

import base64
import hashlib
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from onelayer.analysis.evaluation import evaluate
from onelayer.analysis.gradcheck import check_gradients, sample_rows
from onelayer.config import SETTINGS, SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.errors import OnelayerError, RunError
from onelayer.experiments.comparison import compare_answers
from onelayer.experiments.study import FOLDERS, Finding, read_study
from onelayer.experiments.sweep import Sweep, results
from onelayer.losses import LOSSES
from onelayer.report import pictures
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.state import Score
from onelayer.words import counted, option_value, percent, row_count, spaced

SPLITS = ("train", "validation", "test")
MOST_SETTINGS = 6  # of a sweep that get a section of their own
COMMAND_WIDTH = 88  # characters in a line
MOST_VERDICTS = 24  # settings that are compared with the best


@dataclass(frozen=True)
class Setting:
    """A setting with its complete runs, one a seed.

    Parameters
    ----------
    name : str
        What sets it apart from the others of its group, in words.
    plan : Plan
        Of the first run.
    runs : tuple of Run
    seeds : tuple of int
    scores : tuple of dict of str to Score
        Of each run; without test where the test rows were left alone.
    """

    name: str
    plan: Plan
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    scores: tuple[dict[str, Score], ...]

    @property
    def split(self) -> str:
        """The rows to report on: test rows, or where one of the runs left them alone, validation rows."""
        return self.splits[-1]

    @property
    def splits(self) -> list[str]:
        """The splits that each of the runs was scored on."""
        return [name for name in SPLITS if all(name in scores for scores in self.scores)]

    def mean_sd(self, split: str, what: str = "accuracy") -> tuple[float, float]:
        """Mean over the runs and their standard deviation (n - 1), NaN for one run."""
        values = [getattr(scores[split], what) for scores in self.scores]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Group:
    """Settings on the same rows, which are compared with each other; the best on validation first.

    Parameters
    ----------
    name : str
        Empty where it is the only one.
    settings : tuple of Setting
        At least one.
    notes : tuple of str
        Such as which runs diverged.
    """

    name: str
    settings: tuple[Setting, ...]
    notes: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """Of the run that stands for the group, the first seed of the best setting."""
        return self.settings[0].plan


@dataclass(frozen=True)
class Subject:
    """What a report is about; the first run of the first group is shown in detail.

    Parameters
    ----------
    title : str
    groups : tuple of Group
        At least one.
    problems : tuple of str
        What was left out, and why.
    findings : tuple of Finding
        Of a study.
    """

    title: str
    groups: tuple[Group, ...]
    problems: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


Read = tuple[TrainConfig, tuple[tuple[Plan, Run, dict[str, Score]], ...]]  # a setting with its complete runs


def read_subject(paths: Sequence[Path]) -> Subject:
    """Find out what there is to report.

    Parameters
    ----------
    paths : sequence of Path
        Run directories, or one sweep or study directory.

    Raises
    ------
    RunError
        If a run is missing, not complete or of other data than the others, or nothing is there to report.
    ModelFileError
        If a run is damaged. One of a sweep or a study is left out instead, and named among the problems.
    """
    title = " and ".join(path.resolve().name for path in paths)
    for path in paths:
        is_study = (path / "study.json").exists()
        if is_study or (path / "sweep.json").exists():
            if len(paths) > 1:
                raise RunError(f"{path} is a {'study' if is_study else 'sweep'}; make a report of it alone")
            return _read_study(path) if is_study else _read_sweeps(title, {"": path})
    return Subject(title, (_group("", _read_runs([Run.open(path) for path in paths])),))


def _read_runs(runs: Sequence[Run]) -> list[Read]:
    settings: dict[TrainConfig, list[tuple[Plan, Run, dict[str, Score]]]] = {}
    first: tuple[Plan, Run] | None = None
    for run in runs:
        plan, _ = run.read_checkpoint()
        run.read_model()  # one that cannot be shown is found now
        _, other = first = first or (plan, run)
        for what, mine, its in (
            ("was trained on other data than", plan.fingerprint[:12], first[0].fingerprint[:12]),
            ("divides the data in another way than", plan.split_config, first[0].split_config),
        ):
            if mine != its:
                raise RunError(f"{run.path} {what} {other.path} ({mine} and {its}); make a report of each")
        members = settings.setdefault(replace(plan.config, seed=0, threads=0), [])
        for same, twin, _ in members:
            if same.config.seed == plan.config.seed:
                raise RunError(f"{twin.path} and {run.path} both have seed {plan.config.seed}; pass one of them")
        members.append((plan, run, run.read_scores()))
    return sorted(
        ((config, tuple(of_setting)) for config, of_setting in settings.items()),
        key=lambda item: -np.mean([scores["validation"].accuracy for _, _, scores in item[1]]),
    )


def _read_study(path: Path) -> Subject:
    study = read_study(path)
    folders = {name: path / name for name in FOLDERS if (path / name / "sweep.json").exists()}
    subject = _read_sweeps(str(study["name"]), folders)
    if not study["findings"]:
        stopped = f"{path}: the study is not finished; go on with onelayer study {study['name']} --out {path}"
        subject = replace(subject, problems=(*subject.problems, stopped))
    for finding in study["findings"]:
        rows = [finding.columns, *finding.rows] if isinstance(finding.rows, list | tuple) else [None]
        texts = [[finding.title, finding.verdict], *rows]
        if not all(isinstance(row, list | tuple) and all(isinstance(text, str) for text in row) for row in texts):
            raise RunError(f"{path / 'study.json'}: damaged (the finding {finding.title!r:.80})")
    return replace(subject, findings=tuple(study["findings"]))


def _read_sweeps(title: str, paths: Mapping[str, Path]) -> Subject:
    """Sweeps by their names, each with the refit of its chosen setting where there is one."""
    groups, problems = [], []
    for name, path in paths.items():
        refit = {f"{name} refit".strip(): path / "refit"} if (path / "refit" / "sweep.json").exists() else {}
        for label, folder in ({name: path} | refit).items():
            try:
                read, notes, skipped = _read_sweep(Sweep.open(folder))
            except RunError as error:
                read, notes, skipped = [], [], [str(error)]
            problems += skipped
            if read:
                groups.append(_group(label, read, notes))
    if not groups:
        raise RunError("; ".join([f"{title} has no complete run to report", *problems[:1]]))
    return Subject(title, tuple(groups), tuple(problems))


def _read_sweep(sweep: Sweep) -> tuple[list[Read], list[str], list[str]]:
    """The settings that have complete runs; which runs diverged; what is missing or damaged."""
    read, notes, problems, waiting = [], [], [], 0
    for result in results(sweep):
        complete = []
        for row in result.runs:
            run = sweep.run(row.setting, row.seed)
            waiting += row.status == "missing"
            if row.status == "diverged":
                notes.append(f"{run.path.name} diverged: {row.note}")
            if row.status == "damaged":
                problems.append(row.note)
            if row.status == "complete":
                try:
                    complete.append((run.read_checkpoint()[0], run, run.read_scores()))
                except OnelayerError as error:
                    problems.append(str(error))
        if complete:
            read.append((result.config, tuple(complete)))
    if waiting:
        problems.append(f"{sweep.path}: {counted(waiting, 'run')} not complete; go on with the sweep")
    return read, notes, problems


def _group(name: str, read: Sequence[Read], notes: Sequence[str] = ()) -> Group:
    """Settings that are named by the options in which they differ, or by all of them."""
    varied = [name for name in SETTINGS if len({getattr(config, name) for config, _ in read}) > 1]
    settings = []
    for config, members in read:
        plans, runs, scores = zip(*members, strict=True)
        words = ", ".join(f"{spaced(name)} {option_value(getattr(config, name))}" for name in varied)
        seeds = tuple(plan.config.seed for plan in plans)
        settings.append(Setting(words or config.setting_in_words(), plans[0], runs, seeds, scores))
    return Group(name, tuple(settings), tuple(notes))


def render(
    subject: Subject, load: Callable[[Plan], Splits], progress: Callable[[int, int | None], None] | None = None
) -> str:
    """The page.

    Parameters
    ----------
    subject : Subject
    load : callable
        The data of a plan, as `Plan.load_splits` reads them.
    progress : callable, optional
        Called with the parts that are done and those in all.
    """
    tick = _counter(progress, len(subject.groups) + 4)
    best = subject.groups[0].settings[0]
    groups: list[dict[str, Any]] = []
    loaded: dict[tuple[str, SplitConfig], Splits] = {}
    for group in reversed(subject.groups):  # so that the first one's data are at hand in the end
        data = group.plan.fingerprint, group.plan.split_config
        if data not in loaded:
            loaded = {data: load(group.plan)}
        groups.insert(0, _group_parts(group, loaded[data], detailed=best))
        tick()
    (splits,) = loaded.values()
    model = best.runs[0].read_model()
    split: Split = getattr(splits, best.split)
    evaluation = evaluate(model, split)
    environment = Environment(
        loader=PackageLoader("onelayer.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "rows": row_count, "hash": _hash}
    parts: dict[str, Any] = {
        "subject": subject,
        "best": best,
        "several": sum(len(setting.runs) for group in subject.groups for setting in group.settings) > 1,
        "summary": _summary(subject),
        "facts": _facts(best, splits),
        "groups": groups,
        "split": split,
        "evaluation": evaluation,
        "class_names": model.class_names,
        "confusion": pictures.confusion(evaluation, split, model),
        "calibration": pictures.calibration(evaluation),
        "pictures": None,
        "weights": None,
    }
    tick()
    if model.image_shape is None:
        parts["weights"] = pictures.strongest_weights(model)
    else:
        shape, names = model.image_shape, model.class_names
        parts["pictures"] = {
            "templates": pictures.templates(model.layer.weights, names, shape),
            "signed": pictures.signed_templates(model, shape),
            "mistakes": pictures.mistakes(evaluation, split, model, shape),
            "epochs": pictures.formation(best.runs[0], model, shape, splits),
        }
    tick()
    parts["gradients"] = _gradients(splits.dataset)
    tick()
    page = environment.get_template("report.html.j2").render(parts)
    tick()
    return page


def _counter(progress: Callable[[int, int | None], None] | None, total: int) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick


# What was run


def _summary(subject: Subject) -> str:
    """What was run, in a line."""
    settings = [setting for group in subject.groups for setting in group.settings]
    if len(settings) == 1 == len(settings[0].runs):
        return settings[0].plan.config.in_words()
    runs = sum(len(setting.runs) for setting in settings)
    return f"{counted(len(settings), 'setting')}, {counted(runs, 'run')}"


def _facts(setting: Setting, splits: Splits) -> dict[str, list[tuple[str, str]]]:
    """Names and values: the settings, the data, and what it ran on."""
    dataset, plan, summary = splits.dataset, setting.plan, setting.runs[0].read_summary()
    n, d = dataset.rows.shape
    official = {True: "the published, to the last bit", False: "not the published", None: "there are no published"}
    duplicates = [
        f"{count:,} {pair.replace(' in ', ' rows in ')}" for pair, count in splits.duplicates.items() if count
    ]
    data = [
        ("name", dataset.name),
        ("source", plan.source),
        ("SHA-256", dataset.fingerprint),
        ("files", official[dataset.official]),
        ("rows", f"{n:,} of {d:,} {dataset.rows.dtype} numbers, {len(dataset.class_names)} classes"),
        ("protocol", splits.protocol),
        *((f"{part.name} rows", f"{len(part):,}") for part in splits),
        ("duplicates", ", ".join(duplicates) or "no row of a split is in an earlier one"),
    ]
    versions = summary.get("versions")
    made = [(str(name), str(version)) for name, version in versions.items()] if isinstance(versions, dict) else []
    seconds = sum(record.seconds for record in setting.runs[0].read_checkpoint()[1].history)
    return {
        "Settings": [(spaced(name), option_value(value)) for name, value in vars(plan.config).items()],
        "Data": data,
        "Made with": [*made, ("arithmetic", str(summary.get("backend"))), ("training", f"{seconds:.1f} s")],
    }


def _train_command(setting: Setting) -> str:
    """What to type to train the same again, once for each seed."""
    words = ["onelayer train", f"--data {shlex.quote(setting.plan.source)}"]
    plan = setting.plan
    for config in (plan.source_config, plan.split_config, replace(plan.config, seed=TrainConfig.seed)):
        for field in fields(config):
            value = getattr(config, field.name)
            if value != field.default:
                words.append(f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    if len(setting.seeds) > 1:
        words = [f"for seed in {' '.join(map(str, setting.seeds))}; do {words[0]}", *words[1:], '--seed "$seed"; done']
    elif setting.seeds != (TrainConfig.seed,):
        words.append(f"--seed {setting.seeds[0]}")
    lines = words[:1]
    for word in words[1:]:
        if len(lines[-1]) + len(word) < COMMAND_WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)


def _verdicts(group: Group, splits: Splits) -> tuple[str, list[str]]:
    """Each setting against the first, on the rows that all have been scored on: which those are, and in words."""
    shown = group.settings[:MOST_VERDICTS]
    split = "test" if all(setting.split == "test" for setting in shown) else "validation"
    rows: Split = getattr(splits, split)
    answers = []
    for setting in shown:
        right = [evaluate(run.read_model(), rows).right for run in setting.runs]
        answers.append(dict(zip(setting.seeds, right, strict=True)))
    first = answers[0]
    verdicts = ["the best on validation"]
    for other in answers[1:]:
        seeds = sorted(first.keys() & other.keys())
        if not seeds:
            verdicts.append("no seed in common")
            continue
        ours, theirs = (np.array([side[seed] for seed in seeds]) for side in (first, other))
        verdicts.append(compare_answers(ours, theirs, rows.row_weights(slice(None))).verdict(b="it"))
    return split, verdicts + ["not compared"] * (len(group.settings) - len(shown))


def _gradients(dataset: Dataset) -> dict[str, Any]:
    """Gradients of both losses against each oracle, as `onelayer check` compares them."""
    d, K = min(10, dataset.rows.shape[1]), min(10, len(dataset.class_names))
    try:
        X, y = sample_rows(dataset, 3, d, K)
        reports = [check_gradients(X, y, n_classes=K, loss=loss) for loss in LOSSES]
    except OnelayerError as error:
        return {"reason": f"The gradients could not be checked on these rows: {error}."}
    gradients = [c for report in reports for c in report.comparisons if c.parameter != "cost"]
    return {
        "reason": "",
        "sizes": (3, d, K),
        "rows": list(zip(gradients[::2], gradients[1::2], strict=True)),  # dW and db
        "skipped": sorted({reason for report in reports for reason in report.skipped.values()}),
        "passed": all(report.passed for report in reports),
    }


def _group_parts(group: Group, splits: Splits, detailed: Setting) -> dict[str, Any]:
    names = [name for name in SPLITS if any(name in setting.splits for setting in group.settings)]
    rows = [
        {
            "name": setting.name,
            "seeds": len(setting.runs),
            "scores": {name: setting.mean_sd(name) for name in setting.splits},
        }
        for setting in group.settings
    ]
    caption = "Accuracy in percent"
    if any(len(setting.runs) > 1 for setting in group.settings):
        caption += ", mean ± standard deviation over the seeds"
    compared = ""
    if len(group.settings) > 1:
        compared, verdicts = _verdicts(group, splits)
        for row, verdict in zip(rows, verdicts, strict=True):
            row["verdict"] = verdict
        caption += f". The best on validation is first; the others are compared with it on the {compared} rows"
        caption += ", which chose it and so favour it" if compared == "validation" else ""
    sections = [
        {
            "setting": setting,
            "curves": pictures.curves(setting.name, [run.read_checkpoint()[1].history for run in setting.runs]),
            "templates": [] if setting is detailed else _setting_templates(setting),
        }
        for setting in group.settings[:MOST_SETTINGS]
    ]
    sizes = ", ".join(f"{len(split):,} {split.name}" for split in splits)
    return {
        "name": group.name,
        "notes": group.notes,
        "data": f"Protocol {splits.protocol}: {sizes} rows; SHA-256 {splits.dataset.fingerprint}.",
        "caption": f"{caption}.",
        "splits": names,
        "rows": rows,
        "compared": compared,
        "sections": sections,
        "commands": [_train_command(setting) for setting in group.settings],
    }


def _setting_templates(setting: Setting) -> list[pictures.Picture]:
    model = setting.runs[0].read_model()
    if model.image_shape is None:
        return []
    return pictures.templates(model.layer.weights, model.class_names, model.image_shape)


def _hash(script: str) -> str:
    """By which the page's own script is allowed, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
