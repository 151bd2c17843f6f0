"""One HTML file that shows what runs learned: no script, font or picture comes from elsewhere.

`read_subject` finds out what there is to report and skips what is damaged, `render` makes the page. Numbers, pictures
and their descriptions are made here; `report.html.j2` says where they stand, and escapes every name.
"""

import base64
import hashlib
import io
import math
import re
import secrets
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from onelayer import figures
from onelayer.config import SplitConfig, TrainConfig, counted
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.errors import ConfigError, OnelayerError, RunError
from onelayer.evaluation import Evaluation, evaluate
from onelayer.gradcheck import GradientReport, check_gradients, sample_rows
from onelayer.losses import LOSSES
from onelayer.model import Model
from onelayer.page import INK, QUIET, RULE
from onelayer.run import Plan, Run
from onelayer.screen import percent
from onelayer.training import History, Score, TrainingState, train

CHART_WIDTH = 4.7  # inches: with room for two side by side, and words that can be read on a phone
EPOCHS_SHOWN = (1, 2, 5, 10, 20, 40, 100, 200, 500, 1000)  # at which templates are shown while they form
MOST_SECONDS = 60.0  # of training, for it to be repeated to see the templates form
MOST_SETTINGS = 6  # of a sweep that get a section of their own
MOST_CLASSES = 20  # whose confusion is a table, and whose templates are shown while they form
MOST_PAIRS = 100  # true and predicted classes with images, where there are more classes
IMAGES_OF_PAIR, MISTAKES = 6, 24
# What the page colours by its scheme, light or dark.
VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    figures.COLOURS["train"]: "train",
    figures.COLOURS["validation"]: "validation",
}


@dataclass(frozen=True)
class Setting:
    """A setting with its complete runs, one a seed.

    Parameters
    ----------
    name : str
    plan : Plan
        Of the first run.
    runs : tuple of Run
    scores : tuple of dict of str to Score
        Of each run; without test where the test rows were left alone.
    """

    name: str
    plan: Plan
    runs: tuple[Run, ...]
    scores: tuple[dict[str, Score], ...]

    @property
    def split(self) -> str:
        """The rows to report on: test rows, or where one of the runs left them alone, validation rows."""
        return "test" if "test" in self.common_splits else "validation"

    @property
    def common_splits(self) -> set[str]:
        """The splits that each of the runs was scored on."""
        return set.intersection(*(set(scores) for scores in self.scores))

    def mean_sd(self, split: str, what: str = "accuracy") -> tuple[float, float]:
        """Mean over the runs and their standard deviation, NaN for one run."""
        values = [getattr(scores[split], what) for scores in self.scores]
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


@dataclass(frozen=True)
class Group:
    """Settings that are compared with each other, the best on validation first."""

    name: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Parameters
    ----------
    title : str
    groups : tuple of Group
    problems : tuple of str
        What was skipped, and why.
    findings : tuple of dict
        Of a study: title, verdict, and a table with columns and rows.
    """

    title: str
    groups: tuple[Group, ...]
    problems: tuple[str, ...] = ()
    findings: tuple[dict[str, Any], ...] = ()

    @property
    def plan(self) -> Plan:
        """Of the run that is shown in detail: the first seed of the first group's best setting."""
        return self.groups[0].settings[0].plan


def read_subject(paths: Sequence[Path]) -> Subject:
    """Find out what there is to report.

    Parameters
    ----------
    paths : sequence of Path
        Run directories.

    Raises
    ------
    RunError
        If one is missing or not complete, or they are of different data.
    ModelFileError
        If one is damaged.
    """
    runs = [Run.open(path) for path in paths]
    subject = Subject(" and ".join(path.resolve().name for path in paths), (_group("", runs),))
    _require_same_data(subject)
    return subject


def render(subject: Subject, splits: Splits, progress: Callable[[int, int | None], None] | None = None) -> str:
    """The page.

    Parameters
    ----------
    subject : Subject
    splits : Splits
        Of the subject's data.
    progress : callable, optional
        Called with the parts that are done and those in all.
    """
    tick = _counter(progress, 5)
    best = subject.groups[0].settings[0]
    model, dataset = best.runs[0].read_model(), splits.dataset
    split: Split = getattr(splits, best.split)
    evaluation = evaluate(model, split)
    tick()
    environment = Environment(
        loader=PackageLoader("onelayer", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "hash": _hash, "counted": counted}
    parts: dict[str, Any] = {
        "subject": subject,
        "best": best,
        "facts": _facts(best, splits),
        "detailed": sum(len(setting.runs) for group in subject.groups for setting in group.settings) > 1,
        "groups": [_group_parts(group, group is subject.groups[0]) for group in subject.groups],
        "split": split,
        "evaluation": evaluation,
        "class_names": model.class_names,
        "confusion": _confusion(evaluation, split, model),
        "calibration": _calibration(evaluation),
        "pictures": None,
        "commands": [command for group in subject.groups for command in _commands(group)],
    }
    tick()
    if model.image_shape is not None:
        parts["pictures"] = {
            "templates": _templates(model.layer.weights, model),
            "signed": _signed_templates(model),
            "mistakes": _mistakes(evaluation, split, model),
            "epochs": _formation(best, model, splits),
        }
    tick()
    parts["gradients"] = _gradients(dataset)
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


def _group(name: str, runs: Iterable[Run]) -> Group:
    """Runs by their settings, the best on validation first."""
    settings: dict[TrainConfig, list[tuple[Plan, Run, dict[str, Score]]]] = {}
    for run in runs:
        plan, _ = run.read_checkpoint()
        run.read_model()  # a run that cannot be shown is found now
        settings.setdefault(replace(plan.config, seed=0), []).append((plan, run, _scores(run)))
    found = []
    for members in settings.values():
        plans, of_setting, scores = zip(*members, strict=True)
        found.append(Setting(_words(plans[0].config), plans[0], of_setting, scores))
    found.sort(key=lambda setting: -setting.mean_sd("validation")[0])
    return Group(name, tuple(found))


def _words(config: TrainConfig) -> str:
    return config.in_words().removesuffix(f", seed {config.seed}")


def _scores(run: Run) -> dict[str, Score]:
    results = run.read_summary().get("results")
    try:
        scores = {
            name: Score(**{what: float(value) for what, value in result.items()}) for name, result in results.items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        raise RunError(f"{run.summary_path}: damaged ({error!s:.80})") from None
    if not {"train", "validation"} <= set(scores) <= {"train", "validation", "test"}:
        raise RunError(f"{run.summary_path}: damaged (results of {', '.join(map(str, scores))})")
    return scores


def _require_same_data(subject: Subject) -> None:
    plans = [(setting, run.read_checkpoint()[0], run) for group in subject.groups for setting in group.settings
             for run in setting.runs]
    _, first, its_run = plans[0]
    for _, plan, run in plans[1:]:
        if plan.fingerprint != first.fingerprint:
            raise RunError(
                f"{run.path} is of other data than {its_run.path}: their fingerprints begin with "
                f"{plan.fingerprint[:12]} and {first.fingerprint[:12]}; make a report of each"
            )
        if plan.split_config != first.split_config:
            raise RunError(
                f"{run.path} divides the data in another way than {its_run.path}: {plan.split_config} and "
                f"{first.split_config}; make a report of each"
            )


def _facts(setting: Setting, splits: Splits) -> dict[str, list[tuple[str, str]]]:
    """Names and values: the settings, the data, and what it ran on."""
    dataset, plan, summary = splits.dataset, setting.plan, setting.runs[0].read_summary()
    n, d = dataset.rows.shape
    official = {True: "yes, to the last bit", False: "no", None: "nothing is published to compare with"}
    data = [
        ("name", dataset.name),
        ("source", plan.source),
        ("SHA-256", dataset.fingerprint),
        ("published data", official[dataset.official]),
        ("rows", f"{n:,} of {d:,} {dataset.rows.dtype} numbers, {counted(len(dataset.class_names), 'class')}"),
        ("protocol", splits.protocol),
        *((f"{part.name} rows", f"{len(part):,}") for part in splits),
        *((f"duplicates: {pair}", f"{count:,}") for pair, count in splits.duplicates.items()),
    ]
    versions = summary.get("versions")
    made = [(str(name), str(version)) for name, version in versions.items()] if isinstance(versions, dict) else []
    seconds = sum(record.seconds for record in setting.runs[0].read_checkpoint()[1].history)
    return {
        "Settings": [(name.replace("_", " "), str(value)) for name, value in vars(plan.config).items()],
        "Data": data,
        "Made with": [*made, ("arithmetic", str(summary.get("backend"))), ("training", f"{seconds:.1f} s")],
    }


def _commands(group: Group) -> list[str]:
    return [_train_command(setting) for setting in group.settings]


def _train_command(setting: Setting) -> str:
    """What to type to train the same again, once for each seed."""
    words = ["onelayer", "train", "--data", setting.plan.source]
    for config in (setting.plan.split_config, replace(setting.plan.config, seed=TrainConfig().seed)):
        for field in fields(config):
            value = getattr(config, field.name)
            if value != field.default:
                words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    seeds = [run.read_checkpoint()[0].config.seed for run in setting.runs]
    if seeds == [TrainConfig().seed]:
        return shlex.join(words)
    if len(seeds) == 1:
        return shlex.join([*words, "--seed", str(seeds[0])])
    return f'for seed in {" ".join(map(str, seeds))}; do {shlex.join(words)} --seed "$seed"; done'


# Pictures


@dataclass(frozen=True)
class Picture:
    """A picture in the page itself.

    Parameters
    ----------
    source : str
        A data URI.
    width, height : int
        Pixels.
    alt : str
        What is to be seen.
    caption : str
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""


def _png(pixels: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Pixels (h, w) or (h, w, 3), uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, pixels.shape[1], pixels.shape[0], alt, caption)


def _svg(figure: Figure, alt: str) -> Markup:
    """A figure as an element of the page, in the page's colours and letters."""
    buffer = io.StringIO()
    # References within a drawing are made of this salt: those of two drawings on a page must differ.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in each drawing, and of no use
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    opening = (
        f'<svg class="chart" role="img" aria-label="{Markup.escape(alt)}" viewBox="{box[0][9:-1]}" '
        f'width="{float(box[1]) * 4 / 3:.0f}" height="{float(box[2]) * 4 / 3:.0f}">'
    )
    body = text[text.index(">") + 1 :].replace("xlink:href", "href")
    return Markup(opening + re.sub(r"\n\s*", "\n", body).strip())  # noqa: S704, the figure's own, and escaped


def _curves(setting: Setting) -> list[Markup]:
    histories = [run.read_checkpoint()[1].history for run in setting.runs]
    first, others = histories[0], histories[1:]
    if not first:
        return []
    charts = []
    for what, draw in (("loss", figures.loss_curve), ("cost", figures.cost_curve)):
        alt = f"{what.capitalize()} by epoch, {setting.name}: " + "; ".join(
            _course(split, [getattr(record, f"{split}_{what}") for record in first]) for split in figures.COLOURS
        )
        charts.append(_svg(draw(first, "", CHART_WIDTH, others), alt))
    return charts


def _course(split: str, values: list[float]) -> str:
    place = int(np.argmin(values))
    least = f", lowest {values[place]:.4f} after epoch {place + 1}" if place + 1 < len(values) else ""
    return f"{split} from {values[0]:.4f} after the first to {values[-1]:.4f} after the last{least}"


def _templates(weights: np.ndarray, model: Model, when: str = "") -> list[Picture]:
    """Each class's weights, stretched to their own range."""
    assert model.image_shape is not None
    found = []
    for name, column in zip(model.class_names[: figures.MOST_TEMPLATES], weights.T, strict=False):
        image = figures.stretched(figures.picture(np.asarray(column, np.float64).reshape(model.image_shape)))
        found.append(_png(_bytes(image), f"template of {name}{when}", name))
    return found


def _signed_templates(model: Model) -> dict[str, Any]:
    """What a grey level more of each pixel adds to each class's logit: its channels side by side, on one scale."""
    assert model.image_shape is not None
    c, h, w = model.image_shape
    names = model.class_names[: figures.MOST_TEMPLATES]
    V, limit, beyond = figures.signed_scale(model.layer.weights[:, : len(names)], model.standardizer.scale)
    found = []
    for name, column in zip(names, V.T, strict=True):
        channels = column.reshape(c, h, w).transpose(1, 0, 2).reshape(h, c * w)
        colours = figures.SIGNED((channels / limit + 1) / 2, bytes=True)[..., :3]
        alt = f"signed template of {name}" + (", red, green and blue side by side" if c == 3 else "")
        found.append(_png(np.ascontiguousarray(colours), alt, name))
    stops = ", ".join(mpl.colors.to_hex(figures.SIGNED(place)) for place in np.linspace(0, 1, 11))
    notes = [f"{beyond:.2g} % of the weights lie beyond the scale."] if beyond else []
    notes += ["Grey pixels were constant in training."] if np.isnan(V).any() else []
    return {"pictures": found, "limit": limit, "stops": stops, "notes": " ".join(notes), "channels": c}


def _formation(setting: Setting, model: Model, splits: Splits) -> dict[str, Any]:
    """Templates after some of the epochs, for which training is repeated; or why there are none."""
    plan, state = setting.runs[0].read_checkpoint()
    config = plan.config
    seconds = sum(record.seconds for record in state.history)
    if seconds > MOST_SECONDS:
        return {"reason": f"To train once more for these pictures would take about {seconds:.0f} seconds."}
    K = min(len(model.class_names), MOST_CLASSES)
    chosen = {epoch for epoch in (*EPOCHS_SHOWN, config.epochs) if epoch <= config.epochs}
    initial = TrainingState.initial(model.layer.weights.shape[0], len(model.class_names), config)
    weights = {0: initial.layer.weights}

    def capture(state: TrainingState) -> None:
        if state.epoch in chosen:
            weights[state.epoch] = state.layer.weights

    try:
        trained = train(splits, config, on_epoch=capture, report_test=False).model.layer.weights
    except ConfigError as error:
        return {"reason": f"Training could not be repeated for these pictures: {error}."}
    same = np.array_equal(trained, model.layer.weights)
    columns = [_templates(W[:, :K], model, f" after {counted(epoch, 'epoch')}") for epoch, W in weights.items()]
    return {"reason": "", "epochs": list(weights), "rows": list(zip(*columns, strict=True)), "same": same}


def _bytes(image: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 1 as pixels."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _photos(split: Split, places: np.ndarray, shape: tuple[int, int, int]) -> list[np.ndarray]:
    return [_bytes(figures.picture(row.reshape(shape)) / 255) for row in split.rows(places)]


# What is right and wrong


def _confusion(evaluation: Evaluation, split: Split, model: Model) -> dict[str, Any]:
    """Cells with their share of the true class, and the images behind each."""
    counts, K = evaluation.confusion, len(model.class_names)
    totals = counts.sum(axis=1)
    pairs = [(int(i), int(j)) for i, j in np.argwhere(counts)]
    if K > MOST_CLASSES:
        wrong = [(i, j) for i, j in pairs if i != j]
        pairs = sorted(sorted(wrong, key=lambda pair: -counts[pair])[:MOST_PAIRS])
    groups: dict[int, list[dict[str, Any]]] = {}
    for i, j in pairs:
        places = np.flatnonzero((evaluation.labels == i) & (evaluation.predictions == j))
        places = places[np.argsort(-evaluation.confidences[places], kind="stable")]
        truth, answer = model.class_names[i], model.class_names[j]
        words = f"{truth}, and classified so" if i == j else f"{truth}, taken for {answer}"
        shown = places[:IMAGES_OF_PAIR]
        picture = None
        if model.image_shape is not None:
            strip = np.concatenate(_photos(split, shown, model.image_shape), axis=1)
            picture = _png(strip, f"{counted(len(shown), 'image')} of {words}")
        group = {"id": f"cell-{i}-{j}", "predicted": j, "answer": answer, "right": i == j, "picture": picture}
        ends = evaluation.confidences[shown[[0, -1]]]
        groups.setdefault(i, []).append(group | {"count": int(counts[i, j]), "shown": len(shown), "ends": ends})
    shares = counts / np.maximum(totals, 1)[:, np.newaxis]
    accuracies = [float(share) for share in evaluation.class_accuracies]
    chart = None
    if K > MOST_CLASSES:
        figure = figures.confusion(counts, model.class_names, "")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        with Image.open(buffer) as image:
            alt = "Confusion matrix as colours; the most frequent confusions are listed below"
            chart = _png(np.asarray(image.convert("RGB")), alt)
    return {
        "counts": counts.tolist(),
        "shares": shares.tolist(),
        "totals": totals.tolist(),
        "groups": groups,
        "accuracies": accuracies,
        "chart": chart,
    }


def _mistakes(evaluation: Evaluation, split: Split, model: Model) -> list[dict[str, Any]]:
    assert model.image_shape is not None
    places = evaluation.worst_mistakes(MISTAKES)
    found = []
    for place, pixels in zip(places, _photos(split, places, model.image_shape), strict=True):
        truth, answer = (model.class_names[labels[place]] for labels in (evaluation.labels, evaluation.predictions))
        alt = f"image of {truth}, taken for {answer}"
        confidence = float(evaluation.confidences[place])
        found.append({"picture": _png(pixels, alt), "truth": truth, "answer": answer, "confidence": confidence})
    return found


def _calibration(evaluation: Evaluation) -> dict[str, Any]:
    found = evaluation.reliability()
    error = found.expected_calibration_error
    rows = [
        (low, high, int(count), float(confidence), float(accuracy))
        for (low, high), count, confidence, accuracy in zip(
            pairwise(found.edges.tolist()), found.counts, found.confidence, found.accuracy, strict=True
        )
        if count
    ]
    claimed, right = float(evaluation.confidences.mean()), evaluation.accuracy
    probabilities = evaluation.true_class_probabilities
    diagram = (
        f"Reliability diagram: answers of {percent(claimed)} mean confidence are right in {percent(right)} of cases; "
        f"expected calibration error {percent(error)}. The numbers are in the table below."
    )
    histogram = (
        f"Histogram of the true class's probability over {len(probabilities):,} rows: median "
        f"{percent(float(np.median(probabilities)))}, below 10 % for {percent(float((probabilities < 0.1).mean()))} "
        "of the rows"
    )
    return {
        "error": error,
        "claimed": claimed,
        "rows": rows,
        "median": float(np.median(probabilities)),
        "diagram": _svg(figures.reliability(found, "", CHART_WIDTH), diagram),
        "histogram": _svg(figures.probability_histogram(evaluation, "", CHART_WIDTH), histogram),
    }


def _gradients(dataset: Dataset) -> dict[str, Any]:
    """Gradients of both losses against each oracle, as `onelayer check` compares them."""
    d, K = min(10, dataset.rows.shape[1]), min(10, len(dataset.class_names))
    try:
        X, y = sample_rows(dataset, 3, d, K)
        reports: list[GradientReport] = [check_gradients(X, y, n_classes=K, loss=loss) for loss in LOSSES]
    except OnelayerError as error:
        return {"reason": f"The gradients could not be checked on these rows: {error}."}
    return {
        "reason": "",
        "sizes": (3, d, K),
        "rows": [c for report in reports for c in report.comparisons if c.parameter != "cost"],
        "skipped": sorted({reason for report in reports for reason in report.skipped.values()}),
        "passed": all(report.passed for report in reports),
    }


def _group_parts(group: Group, first: bool) -> dict[str, Any]:
    several = max(len(setting.runs) for setting in group.settings) > 1
    splits = [
        name for name in ("train", "validation", "test") if any(name in setting.scores[0] for setting in group.settings)
    ]
    rows = [
        {
            "name": setting.name,
            "seeds": len(setting.runs),
            "scores": {name: setting.mean_sd(name) for name in splits if name in setting.common_splits},
        }
        for setting in group.settings
    ]
    sections = [
        {
            "setting": setting,
            "splits": [name for name in splits if name in setting.common_splits],
            "curves": _curves(setting),
            "templates": _setting_templates(setting, first and place == 0),
        }
        for place, setting in enumerate(group.settings[:MOST_SETTINGS])
    ]
    caption = "Accuracy in percent" + (", mean ± standard deviation over the seeds" if several else "")
    caption += "; the best on validation first" if len(group.settings) > 1 else ""
    return {"name": group.name, "caption": caption, "splits": splits, "rows": rows, "sections": sections, "verdicts": False}


def _setting_templates(setting: Setting, detailed: bool) -> list[Picture]:
    """Those of a setting that is not shown in detail elsewhere."""
    model = setting.runs[0].read_model()
    return [] if detailed or model.image_shape is None else _templates(model.layer.weights, model)


def _hash(script: str) -> str:
    """By which the page's own script is allowed, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def write_page(path: Path, page: str) -> None:
    """Write a file so that it is there complete or not at all.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    temporary = path.with_name(f".onelayer-{secrets.token_hex(8)}")
    try:
        try:
            temporary.write_text(page, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another --out") from None
