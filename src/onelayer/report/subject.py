"""The subject of a report: the runs in directories, grouped by their settings. Damaged runs are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from onelayer.config import SETTINGS, TrainConfig
from onelayer.errors import OnelayerError, RunError
from onelayer.experiments.pairing import differences_in_words
from onelayer.experiments.study import FOLDERS, Finding, read_study
from onelayer.experiments.sweep import Sweep, choose, mean_sd, notes_on_choice, results
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import probe_of
from onelayer.training.history import Score
from onelayer.words import counted, option_value, spaced

SPLITS = ("train", "validation", "test")
ChosenBy = tuple[str, tuple[tuple[float, float], ...]]


@dataclass(frozen=True)
class SettingRuns:
    """A setting with its complete runs, one a seed.

    Parameters
    ----------
    name : str
        The options in which it differs from the others of its group, in words.
    plan : Plan
        Plan of the first run.
    runs : tuple of Run
    seeds : tuple of int
    scores : tuple of dict of str to Score
        Scores of each run; without test where the test rows were left alone.
    """

    name: str
    plan: Plan
    runs: tuple[Run, ...]
    seeds: tuple[int, ...]
    scores: tuple[dict[str, Score], ...]

    @property
    def split(self) -> str:
        """The split to report on: test, or validation where one of the runs left the test rows alone."""
        return self.splits[-1]

    @property
    def splits(self) -> list[str]:
        """The splits that each of the runs was scored on."""
        return [name for name in SPLITS if all(name in scores for scores in self.scores)]

    def mean_sd(self, split: str, what: str = "accuracy") -> tuple[float, float]:
        """Return mean and standard deviation (n - 1) over the runs; NaN for the deviation of one run."""
        return mean_sd([getattr(scores[split], what) for scores in self.scores])


@dataclass(frozen=True)
class Group:
    """Settings on the same rows, the best on validation first. They are compared with each other.

    Parameters
    ----------
    name : str
        Empty for the only group.
    settings : tuple of SettingRuns
        At least one.
    notes : tuple of str
        Remarks, such as the runs that diverged.
    picture : Path or None
        PNG file with the picture of the sweep's settings, if there is one.
    chosen_by : (str, tuple of (float, float)), optional
        The score of the validation rows that ranks the settings, and its mean and standard deviation for each; None
        for the accuracy.
    """

    name: str
    settings: tuple[SettingRuns, ...]
    notes: tuple[str, ...] = ()
    picture: Path | None = None
    chosen_by: ChosenBy | None = None

    @property
    def plan(self) -> Plan:
        """The plan of the first seed of the best setting."""
        return self.settings[0].plan


@dataclass(frozen=True)
class Subject:
    """The subject of a report. The first run of the first group is shown in detail.

    Parameters
    ----------
    title : str
    groups : tuple of Group
        At least one.
    problems : tuple of str
        What was left out, with the reason.
    findings : tuple of Finding
        Findings of a study.
    kind : str
        run, runs, sweep or study.
    """

    title: str
    groups: tuple[Group, ...]
    problems: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    kind: str = "run"


Read = tuple[TrainConfig, tuple[tuple[Plan, Run, dict[str, Score]], ...]]  # a setting with its complete runs


def read_subject(paths: Sequence[Path]) -> Subject:
    """Read the runs to report from directories.

    Parameters
    ----------
    paths : sequence of Path
        Run directories, or one sweep or study directory.

    Raises
    ------
    RunError
        If a run is missing, not complete or trained on other data than the others, or there is nothing to report.
    ModelFileError
        If a run is damaged. A damaged run of a sweep or a study is left out instead, and named in the problems.
    """
    title = " and ".join(path.resolve().name for path in paths)
    for path in paths:
        is_study = (path / "study.json").exists()
        if is_study or (path / "sweep.json").exists():
            if len(paths) > 1:
                raise RunError(f"{path} is a {'study' if is_study else 'sweep'}; make a report of it alone")
            return _read_study(path) if is_study else _read_sweeps(title, {"": path}, edges=True)
    kind = "run" if len(paths) == 1 else "runs"
    return Subject(title, (_group("", _read_runs([Run.open(path) for path in paths])),), kind=kind)


def _read_runs(runs: Sequence[Run]) -> list[Read]:
    """Read complete runs, grouped by their settings, the best on validation first."""
    settings: dict[tuple[object, ...], list[tuple[Plan, Run, dict[str, Score]]]] = {}
    first: tuple[Plan, Run] | None = None
    for run in runs:
        plan, _ = run.read_checkpoint()
        _ = run.model  # a model that cannot be read is found now
        _, other = first = first or (plan, run)
        if plan.fingerprint != first[0].fingerprint:
            prints = f"{plan.fingerprint[:12]} and {first[0].fingerprint[:12]}"
            probes = probe_of(run) is not None and probe_of(other) is not None
            remedy = "compare encoders with: onelayer probe A B --html page.html" if probes else "make a report of each"
            raise RunError(f"{run.path} was trained on other data than {other.path} ({prints}); {remedy}")
        if words := differences_in_words(asdict(plan.split_config), asdict(first[0].split_config)):
            raise RunError(
                f"{run.path} divides the data in another way than {other.path} ({words}); make a report of each"
            )
        members = settings.setdefault(tuple(plan.config.settings.values()), [])
        for same, twin, _ in members:
            if same.config.seed == plan.config.seed:
                raise RunError(f"{twin.path} and {run.path} both have seed {plan.config.seed}; pass one of them")
        members.append((plan, run, run.scores))
    return sorted(
        ((members[0][0].config, tuple(members)) for members in settings.values()),
        key=lambda item: -mean_sd([scores["validation"].accuracy for _, _, scores in item[1]])[0],
    )


def _read_study(path: Path) -> Subject:
    """Read the sweeps and the findings of a study."""
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
    return replace(subject, findings=tuple(study["findings"]), kind="study")


def _read_sweeps(title: str, paths: Mapping[str, Path], *, edges: bool = False) -> Subject:
    """Read sweeps by their names, each with the refit of its chosen setting where there is one.

    `edges` adds a note where the best lies at an edge of the values that were tried; those of a study are fixed.
    """
    groups, problems = [], []
    for name, path in paths.items():
        refit = {f"{name} refit".strip(): path / "refit"} if (path / "refit" / "sweep.json").exists() else {}
        for label, folder in ({name: path} | refit).items():
            try:
                read, chosen_by, notes, skipped = _read_sweep(Sweep.open(folder), edges)
            except RunError as error:
                read, chosen_by, notes, skipped = [], None, [], [str(error)]
            problems += skipped
            if read:
                groups.append(_group(label, read, notes, folder / "grid.png", chosen_by))
    if not groups:
        raise RunError("; ".join([f"{title} has no complete run to report", *problems[:1]]))
    return Subject(title, tuple(groups), tuple(problems), kind="sweep")


def _read_sweep(sweep: Sweep, edges: bool) -> tuple[list[Read], ChosenBy | None, list[str], list[str]]:
    """Return settings with complete runs, the scores that chose, notes on the best and on diverged runs, and problems.

    The problems are those with other runs.
    """
    found = results(sweep)
    best = choose(found) if edges else None
    read, chosen_by, problems, waiting = [], [], [], 0
    notes = notes_on_choice(sweep.plan, found, best) if best else []
    for result in found:
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
                    complete.append((run.read_checkpoint()[0], run, run.scores))
                except OnelayerError as error:
                    problems.append(str(error))
        if complete:
            read.append((result.config, tuple(complete)))
            chosen_by.append(result.mean_sd("validation", sweep.plan.select.replace("-", "_")))
    if waiting:
        problems.append(f"{sweep.path}: {counted(waiting, 'run')} not complete; go on with the sweep")
    select = sweep.plan.select
    return read, None if select == "accuracy" else (select.replace("-", " "), tuple(chosen_by)), notes, problems


def _group(
    name: str,
    read: Sequence[Read],
    notes: Sequence[str] = (),
    picture: Path | None = None,
    chosen_by: ChosenBy | None = None,
) -> Group:
    """Group settings, named by the options in which they differ, or by all options."""
    varied = [name for name in SETTINGS if len({getattr(config, name) for config, _ in read}) > 1]
    settings = []
    for config, members in read:
        plans, runs, scores = zip(*members, strict=True)
        words = ", ".join(f"{spaced(name)} {option_value(getattr(config, name))}" for name in varied)
        seeds = tuple(plan.config.seed for plan in plans)
        settings.append(SettingRuns(words or config.setting_in_words(), plans[0], runs, seeds, scores))
    picture = picture if picture and picture.exists() else None
    return Group(name, tuple(settings), tuple(notes), picture, chosen_by)
