"""One HTML file that shows what runs learned: no script, font or picture comes from elsewhere.

Numbers, pictures and their descriptions are made in Python; `report.html.j2` places them and escapes every name.
"""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.progress import Progress, counter
from onelayer.model import Model
from onelayer.report import pictures
from onelayer.report.facts import facts, gradients, summary, train_command, verdicts
from onelayer.report.subject import SPLITS, Group, SettingRuns, Subject
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.words import percent, row_count

MOST_SETTINGS = 6  # of a sweep that get a section of their own


def render(subject: Subject, load: Callable[[Plan], Splits], progress: Progress | None = None) -> str:
    """Return the page of a report.

    Parameters
    ----------
    subject : Subject
    load : callable
        Loads the data of a plan, as `Plan.load_splits` does.
    progress : callable, optional
        Called with the number of parts done and their total.
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
        "best": best,
        "several": sum(len(setting.runs) for group in subject.groups for setting in group.settings) > 1,
        "summary": summary(subject),
        "facts": facts(best, splits),
        "groups": groups,
        "split": split,
        "evaluation": evaluation,
        "class_names": model.class_names,
        "confusion": pictures.confusion(evaluation, split, model),
        "calibration": pictures.calibration(evaluation),
        "pictures": None,
        "weights": None,
        "mistakes": None,
    }
    tick()
    if model.template_shape is None:
        parts["weights"] = pictures.strongest_weights(model)
    else:
        parts["pictures"] = _template_parts(best.runs[0], model, model.template_shape, splits)
    if model.image_shape is not None:
        parts["mistakes"] = pictures.mistakes(evaluation, split, model, model.image_shape)
    tick()
    parts["gradients"] = gradients(splits.dataset)
    tick()
    page = _environment().get_template("report.html.j2").render(parts)
    tick()
    return page


def _template_parts(run: Run, model: Model, shape: pictures.Shape, splits: Splits) -> dict[str, Any]:
    """Return the templates of a model in their own ranges, on one scale, and after some of the epochs."""
    return {
        "templates": pictures.templates(model.on_raw_rows.layer.weights, model.class_names, shape),
        "signed": pictures.signed_templates(model, shape),
        "epochs": pictures.formation(run, model, shape, splits),
    }


def _environment() -> Environment:
    """Return the settings of the page's template: every name is escaped, and a missing one is an error."""
    environment = Environment(
        loader=PackageLoader("onelayer.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "rows": row_count, "hash": _hash}
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
        "commands": [train_command(setting) for setting in group.settings],
    }


def _setting_templates(setting: SettingRuns) -> list[pictures.Picture]:
    """Return the templates of a setting's first run."""
    model = setting.runs[0].model
    if model.template_shape is None:
        return []
    return pictures.templates(model.on_raw_rows.layer.weights, model.class_names, model.template_shape)


def _hash(script: str) -> str:
    """Return the hash of the page's own script, the only script that the page's policy allows."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
