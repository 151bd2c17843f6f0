"""One HTML file that shows what runs learned: no script, font or picture comes from elsewhere.

Numbers, pictures and their descriptions are made in Python; `report.html.j2` places them and escapes every name.
"""

import base64
import hashlib
import html
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.analysis.references import references_for, verdict_of
from onelayer.config import SplitConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.progress import Progress, counter
from onelayer.experiments.study import Finding
from onelayer.features.patches import Patches
from onelayer.model import Model
from onelayer.report import answers, opening, pictures
from onelayer.report.drawings import Picture, Shape
from onelayer.report.facts import certificate, facts, gradients, scores, train_command, verdicts
from onelayer.report.subject import SPLITS, Group, SettingRuns, Subject
from onelayer.runs.directory import Run, now
from onelayer.runs.plan import Plan
from onelayer.training.history import noun_of
from onelayer.words import row_count

FIRST_TEMPLATES = 10  # classes with a template on the first screen
MOST_SETTINGS = 6  # of a sweep that get a section of their own


def render(
    subject: Subject,
    load: Callable[[Plan], Splits],
    progress: Progress | None = None,
    *,
    title: str = "",
    author: str = "",
) -> str:
    """Return the page of a report.

    Parameters
    ----------
    subject : Subject
    load : callable
        Loads the data of a plan, as `Plan.load_splits` does.
    progress : callable, optional
        Called with the number of parts done and their total.
    title, author : str
        Heading of the page, by default the name of the directory; and the name below it.
    """
    tick = counter(progress, len(subject.groups) + 4)
    best = subject.groups[0].settings[0]
    groups: list[dict[str, Any]] = []
    loaded: dict[tuple[str, SplitConfig], Splits] = {}
    for group in reversed(subject.groups):  # so that the data of the first group are loaded in the end
        data = group.plan.fingerprint, group.plan.split_config
        if data not in loaded:
            loaded = {data: load(group.plan)}
        groups.insert(0, _group_parts(group, loaded[data], detailed=best))
        tick()
    (splits,) = loaded.values()
    model = best.runs[0].model
    split: Split = getattr(splits, best.split)
    evaluation = evaluate(model, split)
    parts: dict[str, Any] = {
        "subject": subject,
        "title": title or subject.title,
        "author": author,
        "date": now()[:10],
        **_opening_parts(subject, best, evaluation, splits, split),
        "best": best,
        "facts": facts(best, splits),
        "groups": groups,
        "split": split,
        "evaluation": evaluation,
        "class_names": model.class_names,
        "confusion": answers.confusion(evaluation, split, model),
        "calibration": answers.calibration(evaluation),
        "mistakes": None,
    }
    tick()
    parts |= _weight_parts(best.runs[0], model, splits)
    if model.image_shape is not None:
        parts["mistakes"] = answers.mistakes(evaluation, split, model, model.image_shape)
    tick()
    parts["gradients"] = gradients(splits.dataset)
    tick()
    page = page_of("report.html.j2", parts)
    tick()
    return page


def page_of(template: str, parts: dict[str, Any]) -> str:
    """Return the page that a template of this folder makes of its parts."""
    return _environment().get_template(template).render(parts)


def _opening_parts(
    subject: Subject, best: SettingRuns, evaluation: Evaluation, splits: Splits, rows: Split
) -> dict[str, Any]:
    """Return the parts that say the result."""
    several = sum(len(setting.runs) for group in subject.groups for setting in group.settings) > 1
    references = references_for(best.runs[0].model, splits.train, rows, evaluation)
    verdict = verdict_of(evaluation, references, best.plan.config)
    return {
        "course": opening.course(subject, best.plan.config, splits),
        "result": opening.result(subject, best, evaluation, splits),
        "figures": opening.figures(best, evaluation, references, verdict, splits),
        "better": verdict is None or verdict.better,
        "judged": verdict and opening.judged(best, verdict, several),
        "advice": best.runs[0].advice_on(evaluation.name) or [],
        "first_templates": FIRST_TEMPLATES,
        "several": several,
        "findings": [vars(finding) | {"sentence": _once(finding)} for finding in subject.findings],
    }


def _once(finding: Finding) -> str:
    """Return the verdict of a finding, without the sentences that repeat the verdicts in its table."""
    in_rows = bool(finding.rows) and tuple(finding.columns)[-1:] == ("verdict",)
    return re.split(r"[.;] ", finding.verdict)[0] if in_rows else finding.verdict


def _weight_parts(run: Run, model: Model, splits: Splits) -> dict[str, Any]:
    """Return the templates of a model, its patches, or the strongest weights where it has neither."""
    parts: dict[str, Any] = {"pictures": None, "patches": None, "weights": None}
    if model.template_shape is not None:
        return parts | {"pictures": _template_parts(run, model, model.template_shape, splits)}
    if isinstance(model.features, Patches):
        return parts | {"patches": pictures.patches(_learnt(run, model), splits.train)}
    return parts | {"weights": pictures.strongest_weights(_learnt(run, model))}


def _learnt(run: Run, model: Model) -> Model:
    """Return the model with what it has learnt as its weights, without the initial ones; itself where these were 0."""
    return model if (weights := run.learnt) is None else model.with_weights(weights)


def _template_parts(run: Run, model: Model, shape: Shape, splits: Splits) -> dict[str, Any]:
    """Return the templates of a model in their own ranges, on one scale, and after some of the epochs.

    They show what was learnt. Where the initial weights were random numbers, the weights with these are there, too.
    """
    learnt, names, config = _learnt(run, model), model.class_names, run.config
    raw = pictures.templates(model.on_raw_rows.layer.weights, names, shape, " with the initial weights")
    return {
        "templates": pictures.templates(learnt.on_raw_rows.layer.weights, names, shape),
        "raw": [] if learnt is model else raw,
        "init_std": config.init_std,
        "signed": pictures.signed_templates(learnt, shape),
        "epochs": pictures.formation(run, model, shape, splits),
    }


@cache  # and with it the compiled template
def _environment() -> Environment:
    """Return the settings of the page's template: every name is escaped, and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("onelayer.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"rows": row_count, "hash": _hash, "options": _unbroken}
    return environment


def _group_parts(group: Group, splits: Splits, detailed: SettingRuns) -> dict[str, Any]:
    """Return the table, curves, templates and commands of a group; the templates of `detailed` stand elsewhere."""
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
    if group.chosen_by:
        what, chosen_by = group.chosen_by
        unit = "nats" if what == "loss" else "percent"
        caption = f"Validation {what} in {unit}, by which the order is; accuracy in percent"
        for row, score in zip(rows, chosen_by, strict=True):
            row["chosen_by"] = score
    if any(len(setting.runs) > 1 for setting in group.settings):
        caption += ", mean ± standard deviation over the seeds"
    compared = ""
    if len(group.settings) > 1:
        compared, words = verdicts(group, splits)
        for row, verdict in zip(rows, words, strict=True):
            row["verdict"] = verdict
        caption += f". The best on validation is first; the others are compared with it on the {compared} rows"
        caption += ", which chose it and therefore favour it" if compared == "validation" else ""
    sections = [
        {
            "setting": setting,
            "scores": scores(setting, splits),
            "certificate": certificate(setting, splits),
            "kept": setting.runs[0].kept_epoch,
            "epochs": setting.runs[0].read_checkpoint()[1].epoch,
            "noun": noun_of(setting.runs[0].history),
            "ended": setting.runs[0].summary.get("ended", ""),
            "curves": _setting_curves(setting),
            "path": pictures.of_path(setting.runs[0]),
            "templates": [] if setting is detailed else _setting_templates(setting),
        }
        for setting in group.settings[:MOST_SETTINGS]
    ]
    sizes = ", ".join(f"{len(split):,} {split.name}" for split in splits)
    return {
        "name": group.name,
        "notes": group.notes,
        "chosen_by": group.chosen_by and group.chosen_by[0],
        "picture": group.picture and pictures.grid(group.picture, group.name or "the sweep"),
        "data": f"Protocol {splits.protocol}: {sizes} rows; SHA-256 {splits.dataset.fingerprint}.",
        "caption": f"{caption}.",
        "splits": names,
        "rows": rows,
        "compared": compared,
        "sections": sections,
        "commands": [train_command(setting) for setting in group.settings],
    }


def _setting_curves(setting: SettingRuns) -> dict[str, str]:
    """Return the curves of a setting's first run, with those of the others."""
    histories = [run.read_checkpoint()[1].history for run in setting.runs]
    restarts = setting.plan.config.decay_every == "auto"
    return pictures.curves(setting.name, histories, setting.runs[0].kept_epoch, restarts)


def _setting_templates(setting: SettingRuns) -> list[Picture]:
    """Return the templates that a setting's first run has learnt."""
    model = setting.runs[0].model
    if model.template_shape is None:
        return []
    shown = _learnt(setting.runs[0], model)
    return pictures.templates(shown.on_raw_rows.layer.weights, model.class_names, model.template_shape)


def _unbroken(text: str) -> str:
    """Return a text as HTML, escaped, in which no line ends within an option or before a percent sign."""
    escaped = html.escape(text, quote=False).replace(" %", "\N{NO-BREAK SPACE}%")
    return re.sub(r"--[a-z][a-z0-9-]*", r'<span class="option">\g<0></span>', escaped)


def _hash(script: str) -> str:
    """Return the hash of the page's own script, the only script that the page's policy allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
