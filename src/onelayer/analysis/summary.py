"""The figures of an evaluation and of its references as names and values, for JSON and CSV.

A figure ``accuracy`` stands beside the ends of its 95 % interval, ``accuracy_low`` and ``accuracy_high``. Fractions are
0 to 1, losses are in nats; a figure that is not known is None.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onelayer.analysis.answers import Answers
from onelayer.analysis.estimates import Estimate
from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.references import Reference, Verdict

MOST_CONFUSED = 10  # confusions


def summary_of(
    evaluation: Evaluation, references: Sequence[Reference] = (), verdict: Verdict | None = None
) -> dict[str, Any]:
    """Return all figures of an evaluation, as JSON can hold them.

    Returns
    -------
    dict
        ``name``, ``rows`` and ``effective_rows`` (fewer where rows have weights); every figure of
        `Evaluation.estimates`; ``classes``, the rows of `Evaluation.by_class`; ``confused``, the most frequent
        confusions; ``thresholds``, the rows of `Evaluation.thresholds`; ``references``, each with a name and its
        figures; and ``verdict``, the model against the best reference, or None.
    """
    names = evaluation.class_names
    return {
        "name": evaluation.name,
        "rows": len(evaluation.labels),
        "effective_rows": evaluation.effective_rows,
        **_figures(evaluation),
        "classes": _records(evaluation.by_class),
        "confused": [
            {"true": names[i], "predicted": names[j], "rows": rows} for i, j, rows in evaluation.confused(MOST_CONFUSED)
        ],
        "thresholds": _records(evaluation.thresholds()),
        "references": [{"name": reference.name, **_figures(reference)} for reference in references],
        "verdict": verdict
        and {
            "reference": verdict.reference.name,
            "figure": verdict.figure,
            **_ends("difference", verdict.difference),
            "better": verdict.better,
            "sentence": str(verdict),
        },
    }


def csv_of(columns: Mapping[str, np.ndarray]) -> str:
    """Return columns by name as CSV; a figure that is not known is empty."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(record.values() for record in _records(columns))
    return text.getvalue()


def _figures(answers: Answers) -> dict[str, float | None]:
    return {key: value for name, of in answers.estimates.items() for key, value in _ends(name, of).items()}


def _ends(name: str, estimate: Estimate) -> dict[str, float | None]:
    ends = {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: _known(value) for key, value in ends.items()}


def _records(columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return the rows of columns by name."""
    lists = [[_known(value) for value in column.tolist()] for column in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
