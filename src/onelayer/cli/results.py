"""The results that commands print: words and tables."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onelayer.analysis.certification import is_weak
from onelayer.analysis.estimates import Estimate, named
from onelayer.analysis.evaluation import CLASS_COLUMNS, Evaluation
from onelayer.analysis.explanation import CAVEAT, Explanation
from onelayer.analysis.gradcheck import GradientReport
from onelayer.analysis.judgement import Judgement
from onelayer.analysis.references import Reference, Verdict
from onelayer.cli.screen import Screen
from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.experiments.coursework.diagnosis import Diagnosis, is_accuracy
from onelayer.experiments.sweep import Search, Select, SettingResult, notes_on_choice
from onelayer.runs.directory import Run, resume_command
from onelayer.runs.training import probe_of
from onelayer.training.certificate import Certificate
from onelayer.training.history import SCORE_COLUMNS, History, columns_of, noun_of, scores_in_words
from onelayer.training.state import TrainingResult
from onelayer.words import counted, mean_and_sd, option_value, percent, row_count, small_percent, spaced

if TYPE_CHECKING:
    from onelayer.experiments.comparison import Comparison
    from onelayer.experiments.study import Finding


MOST_CLASSES, WORST, MOST_CONFUSED = 20, 10, 5  # in the tables of an evaluation
ESTIMATED = 0.05  # relative error of the gap that a solver estimates, which a certificate may find larger
SHOWN = 3  # diagnoses side by side, for narrow terminals


def print_dataset(screen: Screen, dataset: Dataset) -> None:
    """Print the name, size, fingerprint and class counts of a data set."""
    official = {True: "yes, to the last bit", False: "no", None: "unknown, no checksum is published"}
    n, d = dataset.rows.shape
    facts = [
        ["name", dataset.name],
        ["rows", f"{n:,} of {d:,} {dataset.rows.dtype} numbers"],
        ["image shape", "no images" if dataset.image_shape is None else " x ".join(map(str, dataset.image_shape))],
        ["official", official[dataset.official]],
        ["fingerprint", dataset.fingerprint],
    ]
    for name, value in facts:
        screen.say(f"{name:12} {value}")
    screen.notes(dataset)
    parts = dataset.class_counts()
    counts = np.array(list(parts.values()))  # (parts, K)
    named = zip([*dataset.class_names, "all"], [*counts.T, counts.sum(axis=1)], strict=True)
    screen.say("")
    columns = [spaced(part.removeprefix("data_")) for part in parts]  # short, for narrow terminals
    screen.table("class", *columns, rows=[[name, *(f"{count:,}" for count in row)] for name, row in named])


def print_result(screen: Screen, splits: Splits, result: TrainingResult, judgement: Judgement | None) -> None:
    """Print loss, cost and accuracy of each split after training, the judgement of the model, and why it ended."""
    screen.say("")
    scores = {splits.label(name): score for name, score in result.scores.items()}
    screen.table("", *SCORE_COLUMNS, rows=scores_in_words(scores))
    history = result.state.history
    noun = noun_of(columns_of(history))
    if history and history[0].test_accuracy is not None:
        screen.say(f"test accuracy after {noun} 1: {percent(history[0].test_accuracy)}")
    if judgement:
        screen.say(f"\n{judgement.evaluation.rows_in_words()}")
        shown = ("accuracy", "balanced_accuracy", "loss")
        print_figures(screen, judgement.evaluation, judgement.references, judgement.verdict, shown)
        for advice in judgement.advice:
            screen.say(f"note: {advice}")
        screen.say("")
    seconds = sum(record.seconds for record in history)
    done = counted(len(history), noun)
    screen.say(f"{seconds:.1f} s for {done} ({result.arithmetic}): {result.ended}")
    if history and result.kept_epoch != len(history):
        screen.say(f"the model is that of epoch {result.kept_epoch}, the best on the validation rows")


def print_certificate(
    screen: Screen, certificate: Certificate, run: Run, config: TrainConfig, history: History
) -> None:
    """Print the certificate of a run by the bound of its own layer, and plainly if the solver converged to less."""
    alike = "" if config.class_weight == "none" else "; in the tables, all rows count alike"
    screen.say(f"{certificate.sentence()} ({certificate.rows}{alike})")
    if config.solver == "converged" and config.l2:
        gap = certificate.relative_gap
        if gap > (1 + ESTIMATED) * config.tol:
            shown = small_percent(gap) if gap <= 1 else "above 100 %"
            asked = f"{shown} of the bound, and tol asks for {small_percent(config.tol)}"
            screen.say(f"note: the gap is {asked}{_remedy(run, config, history)}")
    elif is_weak(certificate):
        command = f"onelayer certify {shlex.quote(str(run.path))}"
        screen.say(f"note: far from the optimum, the bound of a layer itself is weak; {command} looks for a better one")


def _remedy(run: Run, config: TrainConfig, history: History) -> str:
    """Return what to type where a gap was not reached, if there is anything."""
    if history and (history[-1].passes or 0) + 1 > config.max_passes:
        longer = f"{resume_command(run.path)} --max-passes {2 * config.max_passes}"
        return "" if probe_of(run) else f"; go on with: {longer}"
    return "; rounding hides the rest" + ", and --dtype float64 rounds less" * (config.dtype == "float32")


def print_close_certificate(screen: Screen, certificate: Certificate, own: Certificate) -> None:
    """Print a certificate by the best bound at hand, and by the bound of the layer itself."""
    screen.say(certificate.sentence())
    screen.say(f"the cost is that of {certificate.rows}")
    if certificate.bound > own.bound:
        alone = own.sentence().partition(", ")[2].partition(" above")[0]
        screen.say(f"another layer, near the optimum, was looked for to prove it; the model alone proves less: {alone}")


def print_gradients(screen: Screen, reports: list[GradientReport]) -> None:
    """Print the largest error of each gradient against each oracle, and the checks that failed."""
    pairs = [pair for report in reports for pair in report.gradients]
    rows = [
        [dW.loss, f"{dW.l2:g}", dW.point, dW.oracle]
        + [word for c in (dW, db) for word in (f"{c.error:.1e}", str(list(c.index)))]
        for dW, db in pairs
    ]
    screen.say("largest relative error |ga - gn| / max(eps, |ga| + |gn|) of an element, and its place;")
    screen.say("eps is a quarter of the largest element that a gradient has or can have;")
    screen.say("ordinary logits are of order 1, large ones of 1e4")
    screen.table("loss", "l2", "logits", "oracle", "dW", "at", "db", "at", rows=rows, words=4)
    for reason in dict.fromkeys(note for report in reports for note in (*report.skipped.values(), report.sample)):
        if reason:
            screen.say(f"note: {reason}")
    failed = [report.message for report in reports if not report.passed]
    oracles = ", ".join(dict.fromkeys(dW.oracle for dW, _ in pairs))
    for message in failed or [f"all gradients agree with {oracles}"]:
        screen.say(message)


def print_diagnoses(screen: Screen, diagnoses: list[Diagnosis]) -> None:
    """Print the mistakes that explain the figures given, their remedies, and the predictions of the likeliest."""
    tied = [diagnosis for diagnosis in diagnoses if diagnosis.tied]
    count = len(tied[0].predictions)
    figures = "the figure" if count == 1 else f"the {count} figures"
    explained = tied[0].explains
    if not explained:
        screen.say(f"No known mistake explains {figures}. The nearest is:")
    elif len(tied) > 1:
        screen.say(f"Each of these explains {figures}; losses, costs, epoch 1 and other settings may tell them apart:")
    else:
        screen.say(f"This explains {figures}:")
    for diagnosis in tied:
        off = f"{diagnosis.worst:.1f} spreads off"
        screen.say(f"{diagnosis.name}: {diagnosis.mistake.title} ({off if count == 1 else f'at most {off}'})")
        if explained and tied[0].name != "none":  # there is something to mend
            screen.say(f"    {diagnosis.mistake.remedy}")
    screen.say("")
    shown = diagnoses[:SHOWN]
    rows = [
        [p.setting, p.figure, _of_figure(p.figure, p.given)]
        + [f"{_of_figure(p.figure, q.mean)} ± {_of_figure(p.figure, q.spread)}" for q in alternatives]
        for p, *alternatives in zip(shown[0].predictions, *(d.predictions for d in shown), strict=True)
    ]
    screen.table("setting", "figure", "given", *(diagnosis.name for diagnosis in shown), rows=rows, words=2)
    screen.say("± is the spread: the standard deviation over seeds, widened for differences between correct programs")


def print_explanation(screen: Screen, explained: Explanation, class_names: list[str]) -> None:
    """Print the logits of the likeliest classes as sums of the bias and the part of the pixels, or of windows."""
    numbers = (explained.probabilities, explained.logits, explained.bias, explained.logits - explained.bias)
    rows = [
        [name, percent(p), *(f"{number:+z.4f}" for number in parts)]
        for name, p, *parts in zip(class_names, *numbers, strict=True)
    ]
    of_image = "+ pixels" if explained.windows is None else "+ image"
    screen.table("class", "probability", "logit", "= bias", of_image, rows=rows)
    if explained.windows is not None:
        rows = [
            [name, *(f"{amount:+z.4f}" for amount in explained.windows[:, y, x])]
            for (y, x), name in np.ndenumerate(_window_names(*explained.windows.shape[1:]))
        ]
        screen.say("\nadded by each window; average activations of the training images add 0")
        screen.table("window", *class_names, rows=rows)
        screen.say(f"note: {CAVEAT}")


def _window_names(down: int, across: int) -> np.ndarray:
    """Return the names (down, across) of at most 3 x 3 windows."""
    rows, columns = ("top", "middle", "bottom"), ("left", "centre", "right")
    few = {1: slice(1, 2), 2: slice(0, None, 2), 3: slice(0, None)}
    return np.array([[f"{row} {column}" for column in columns[few[across]]] for row in rows[few[down]]])


def print_evaluation(
    screen: Screen,
    evaluation: Evaluation,
    references: Sequence[Reference],
    verdict: Verdict | None,
    advice: Sequence[str],
) -> None:
    """Print all figures of a split: of the rows, of the classes, of the confusions and of the confidence."""
    screen.say(evaluation.rows_in_words())
    print_figures(screen, evaluation, references, verdict)
    for sentence in advice:
        screen.say(f"note: {sentence}")
    K = len(evaluation.class_names)
    shown = None if K <= MOST_CLASSES else np.argsort(evaluation.by_class["f1"], kind="stable")[:WORST].tolist()
    screen.say("" if shown is None else f"\nthe {WORST} of {K:,} classes with the lowest F1; --csv writes all")
    screen.table("class", *CLASS_COLUMNS, rows=evaluation.classes_in_words(shown))
    names, rows = evaluation.class_names, evaluation.by_class["rows"]
    confused = [
        [names[i], names[j], row_count(count), f"{100 * count / rows[i]:.0f} %"]
        for i, j, count in evaluation.confused(MOST_CONFUSED)
    ]
    if confused:
        screen.say("\nmost frequent confusions")
        screen.table("class", "taken for", "rows", "of the class", rows=confused, words=2)
    screen.say("\nif answers below a confidence are left out, as predict --threshold does")
    columns = "answered", "interval", "accuracy", "interval"
    screen.table("confidence", *columns, rows=thresholds_in_words(evaluation))


def print_figures(
    screen: Screen,
    evaluation: Evaluation,
    references: Sequence[Reference],
    verdict: Verdict | None,
    names: Sequence[str] = (),
) -> None:
    """Print figures of a model beside those of its references, by default all, and the verdict."""
    estimates = evaluation.estimates
    if not names:  # the average recall is mostly the balanced accuracy
        same = estimates["macro_recall"] == estimates["balanced_accuracy"]
        names = [name for name in estimates if not (same and name == "macro_recall")]
    rows = [
        [named(name), estimates[name].number(), estimates[name].interval()]
        + [reference.estimates[name].number() if name in reference.estimates else "-" for reference in references]
        for name in names
    ]
    screen.table("", "model", "95 % interval", *(reference.name for reference in references), rows=rows)
    if verdict:
        screen.say(f"{'' if verdict.better else 'note: '}{verdict}")


def thresholds_in_words(evaluation: Evaluation) -> list[list[str]]:
    """Return the table of thresholds, without those that leave out no more answers and those that leave out all."""
    table = evaluation.thresholds()
    rows, before = [], np.nan
    for place, coverage in enumerate(table["coverage"]):
        if coverage not in (0, before):
            found = [Estimate(*(table[w + e][place] for e in ("", "_low", "_high"))) for w in ("coverage", "accuracy")]
            cells = (cell for estimate in found for cell in (estimate.number(), estimate.interval()))
            rows.append([f"{table['threshold'][place]:g}", *cells])
        before = coverage
    return rows


def print_finding(screen: Screen, finding: "Finding") -> None:
    """Print an answer of a study."""
    screen.say(f"\n{finding.title}")
    screen.table(*finding.columns, rows=[list(row) for row in finding.rows], words=len(finding.columns))
    screen.say(finding.verdict)


def print_comparison(screen: Screen, comparison: "Comparison") -> None:
    """Print which rows A and B get right, the test, the intervals, and the verdict."""
    from onelayer.experiments.comparison import in_points  # scipy, which it loads, takes a second

    c = comparison
    several = f", summed over {c.pairs} seeds" if c.pairs > 1 else ""
    counts = [row_count(rows) for rows in (c.both, c.only_a, c.only_b, c.neither)]
    rows = [["A right", *counts[:2]], ["A wrong", *counts[2:]]]
    screen.table(f"rows{several}", "B right", "B wrong", rows=rows)
    rows_test = "McNemar's exact test" if c.seed_p_value is None else "exact sign test over the rows"
    screen.say(f"p value {c.row_p_value:.2g} ({rows_test})")
    if c.seed_p_value is not None and not math.isnan(c.seed_p_value):
        screen.say(f"p value {c.seed_p_value:.2g} (paired t test over the seeds)")
    for source, interval in (("rows", c.row_interval), ("seeds", c.seed_interval)):
        if interval:
            screen.say(f"over the {source}: {in_points(c.difference, interval, sign='+')}")
    if c.seed_interval:
        screen.say(f"over both: {in_points(c.difference, c.interval, sign='+')}")
    screen.say(f"{'accuracy: ' if c.balanced else ''}{c.verdict()}")
    if c.balanced:
        a, b, difference = c.balanced
        screen.say(f"balanced accuracy: A {percent(a)}, B {percent(b)}, difference {difference.in_words()}")
        if c.difference * difference.value < 0:
            screen.say(
                "note: the two disagree, since a class counts by its rows in the accuracy, and once in the other"
            )


def print_sweep(screen: Screen, search: Search) -> None:
    """Print the settings of a sweep, the best first, the chosen one, and the runs that are not complete."""
    plan, results, best = search.sweep.plan, search.results, search.best
    names = plan.varied or ("learning_rate", "l2")
    read = {split for result in results for run in result.runs for split in run.scores}
    shown = [split for split in ("train", "validation", "test") if split in read]
    rows = []
    for result in results:
        settings = [option_value(getattr(result.config, name)) for name in names]
        others = Counter(run.status for run in result.runs if run.status != "complete")
        runs = [str(len(result.complete)), *(f"{count} {status}" for status, count in others.items())]
        chosen_by = [] if plan.select == "accuracy" else [_selected(result, plan.select)]
        scores = (mean_and_sd(*result.mean_sd(split)) for split in shown)
        rows.append([f"{result.setting:03}", *settings, *chosen_by, *scores, ", ".join(runs)])
    screen.say("")
    words = [spaced(name) for name in names]
    heads = {"loss": ["validation (nats)"], "balanced-accuracy": ["balanced (%)"]}.get(plan.select, [])
    heads += [f"{split} (%)" for split in shown]
    screen.table("", *words, *heads, "runs", rows=rows, words=1 + len(words))
    if len(plan.seeds) > 1:
        screen.say(f"mean ± standard deviation over {len(plan.seeds)} seeds")
    if best:
        chosen = ", ".join(f"{name} {value}" for name, value in zip(words, rows[0][1:], strict=False))
        screen.say(f"chosen by validation {spaced(plan.select.replace('-', '_'))}: {chosen}")
        if search.refitted:
            screen.say(
                f"test, refitted on train and validation rows: {mean_and_sd(*search.refitted.mean_sd('test'))} %"
            )
    else:
        screen.say("no setting is chosen, because no run is complete; if all diverged, try a smaller learning rate")
    if any(result.has_test for result in results[1:]):
        screen.say("note: do not choose a setting by the test figures of the other settings")
    elif best and best.has_test:
        screen.say("the test rows were read for this setting only")
    for note in notes_on_choice(plan, results, best) if best else []:
        screen.say(f"note: {note}")
    for run in search.runs:
        if run.status == "damaged":
            screen.say(f"note: left out a damaged run: {run.note}; delete its directory to train it again")


def _selected(result: SettingResult, select: Select) -> str:
    """Return mean and standard deviation of the score that chooses."""
    mean, sd = result.mean_sd("validation", select.replace("-", "_"))
    if select != "loss":
        return mean_and_sd(mean, sd)
    return "-" if math.isnan(mean) else f"{mean:.4f}" + ("" if math.isnan(sd) else f" ± {sd:.4f}")


def _of_figure(figure: str, value: float) -> str:
    return f"{100 * value:.1f} %" if is_accuracy(figure) else f"{value:.3f}"
