"""Comparisons against scipy's tests and bootstrap, against published and hand-computed values, and on real runs."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import coursework, toy_dataset, toy_splits
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from onelayer.analysis.evaluation import evaluate
from onelayer.cli.main import run_command
from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.data import load_splits
from onelayer.data.dataset import Splits
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DataError, RunError
from onelayer.experiments.comparison import compare_answers, compare_balanced
from onelayer.experiments.pairing import compare, compare_runs, find_runs, pair
from onelayer.runs import training as runs
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.state import Problem, TrainingState

CONFIG = replace(COURSEWORK, epochs=2, learning_rate=0.01)


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    table = np.array([[True, True], [True, False], [False, True], [False, False]])
    return tuple(np.repeat(table, [both, only_a, only_b, neither], axis=0).T)


def random_answers(seed: int, pairs: int = 1, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Rows that are easy or hard for both sides; B is better by about 5 points."""
    rng = np.random.default_rng(seed)
    ease = rng.uniform(0.1, 0.9, n)
    return rng.random((pairs, n)) < ease, rng.random((pairs, n)) < ease + 0.05


def made_run(path: Path, splits: Splits, config: TrainConfig = CONFIG, split_config: SplitConfig | None = None) -> Run:
    run = Run.create(path)
    plan = Plan(config, split_config or SplitConfig(), "toy", splits.dataset.fingerprint)
    runs.start(run, plan, Problem.of(splits, plan.config))
    return run


@pytest.mark.parametrize(
    ("table", "p_value"),
    [
        ((5, 1, 8, 3), 2 * (1 + 9) / 2**9),  # by hand: 0 or 1 of 9 tosses, on either side
        ((5, 4, 0, 3), 2 / 2**4),
        ((101, 121, 59, 33), 0.000004),  # these as in statsmodels' tests, which have them from vassarstats.net
        ((101, 70, 59, 33), 0.378688),
        ((101, 80, 59, 33), 0.089452),
        ((101, 10, 30, 33), 0.002221),
        ((101, 10, 10, 33), 1),
    ],
)
def test_mcnemar_of_known_tables(table, p_value):
    found = compare_answers(*answers(*table))
    assert found.row_p_value == pytest.approx(p_value, abs=1e-6)
    assert (found.both, found.only_a, found.only_b, found.neither) == table
    assert (found.pairs, found.rows) == (1, sum(table))
    assert found.accuracy_a == (table[0] + table[1]) / sum(table)
    assert found.accuracy_b == (table[0] + table[2]) / sum(table)
    assert found.difference == pytest.approx(found.accuracy_b - found.accuracy_a)
    assert found.interval == found.row_interval
    assert found.seed_interval is None


@pytest.mark.parametrize("pairs", [1, 3])
def test_rows_interval_agrees_with_scipys_bootstrap(pairs):
    right_a, right_b = random_answers(1, pairs)
    found = compare_answers(right_a, right_b)
    per_row = (right_b.mean(axis=0) - right_a.mean(axis=0),)
    expected = stats.bootstrap(per_row, np.mean, method="percentile", random_state=2).confidence_interval
    width = expected.high - expected.low
    assert 0.05 < width < 0.15
    assert found.row_interval == pytest.approx(expected, abs=0.04 * width)


def test_seeds_interval_agrees_with_scipys_paired_t_test():
    right_a, right_b = random_answers(3, pairs=6)
    found = compare_answers(right_a, right_b)
    expected = stats.ttest_rel(right_b.mean(axis=1), right_a.mean(axis=1))
    assert found.seed_p_value == pytest.approx(expected.pvalue)
    assert 1e-6 < found.seed_p_value < 0.2
    assert found.seed_interval == pytest.approx(tuple(expected.confidence_interval()))
    assert found.difference == pytest.approx(right_b.mean() - right_a.mean())
    assert found.pairs == 6


def test_rows_interval_covers_the_difference_of_other_rows():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(300):  # standard deviation of the count over 300: 1.2 %
        low, high = compare_answers(*answers(*rng.multinomial(500, [0.4, 0.1, 0.14, 0.36]))).row_interval
        covered += low <= 0.04 <= high
    assert 0.92 < covered / 300 < 0.98


def test_seeds_interval_covers_the_difference_of_other_seeds():
    rng = np.random.default_rng(5)
    a, b = rng.uniform(0, 1, (2, 300))  # how often a seed gets each row right; the rows stay the same
    covered = 0
    for _ in range(300):
        low, high = compare_answers(rng.random((4, 300)) < a, rng.random((4, 300)) < b).seed_interval
        covered += low <= (b - a).mean() <= high
    assert 0.91 < covered / 300 < 0.985


def test_the_verdicts_interval_has_the_noise_of_rows_and_of_seeds():
    alike = np.broadcast_to(random_answers(6)[0], (5, 400))  # all seeds answer alike: only the rows are noisy
    better = alike | (np.arange(400) % 50 == 0)
    found = compare_answers(alike, better)
    assert found.seed_interval == pytest.approx((found.difference, found.difference))
    assert found.interval == pytest.approx(found.row_interval)
    assert np.isnan(found.seed_p_value)
    few = int(np.count_nonzero(better[0] & ~alike[0]))
    assert found.row_p_value == pytest.approx(2 * 0.5**few)
    restless = better.copy()
    restless[0] = False  # one seed failed: only the seeds are noisy
    found = compare_answers(alike, restless)
    rows, seeds = (np.subtract(ends, found.difference) for ends in (found.row_interval, found.seed_interval))
    assert np.subtract(found.interval, found.difference) == pytest.approx([-1, 1] * np.sqrt(rows**2 + seeds**2))
    assert found.verdict().startswith("no difference")


def test_the_verdicts_interval_covers_the_difference_of_other_rows_and_other_seeds():
    rng = np.random.default_rng(12)
    covered = []
    for _ in range(300):
        ability = rng.normal(0.1, 0.3, (5, 1)) + rng.normal(0, 1, 400)  # B's, of seeds and rows; A's is of rows alone
        level = rng.normal(0, 1, 400)
        right_a, right_b = np.broadcast_to(level > 0, (5, 400)), level + 0.3 * ability > 0
        low, high = compare_answers(right_a, right_b).interval
        # level + 0.3 ability is normal with mean 0.03 and variance 1 + 0.09 (1 + 0.09), over rows and seeds.
        covered.append(low <= stats.norm.cdf(0.03 / np.sqrt(1 + 0.09 * 1.09)) - 0.5 <= high)
    assert 0.92 < np.mean(covered) <= 1


@pytest.mark.parametrize("pairs", [1, 4])
def test_a_against_b_mirrors_b_against_a(pairs):
    right_a, right_b = random_answers(7, pairs, n=10_000)  # enough that other draws have other quantiles
    there, back = compare_answers(right_a, right_b), compare_answers(right_b, right_a)
    assert there.difference == -back.difference != 0
    assert there.row_p_value == pytest.approx(back.row_p_value)
    assert there.seed_p_value == (back.seed_p_value if pairs == 1 else pytest.approx(back.seed_p_value))
    assert there.row_interval == tuple(-end for end in reversed(back.row_interval))
    assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)))
    assert (there.only_a, there.only_b) == (back.only_b, back.only_a)


@pytest.mark.parametrize("pairs", [1, 3])
def test_the_same_answers_are_no_difference(pairs):
    right, _ = random_answers(8, pairs)
    found = compare_answers(right, right.copy())
    assert (found.difference, found.row_p_value, found.interval) == (0, 1, (0, 0))
    assert found.verdict() == "no difference beyond noise (+0.00 points, 95 % interval 0.00 to 0.00)"


def test_where_few_rows_differ_the_test_has_a_say():
    found = compare_answers(*answers(500, 0, 4, 496))  # the bootstrap cannot draw a row that A alone gets right
    assert found.interval[0] > 0
    assert found.row_p_value == 0.125
    assert re.fullmatch(
        r"no clear difference \(\+0\.40 points, 95 % interval 0\.\d\d to 0\.\d\d, but p value 0\.12 over the rows.*\)",
        found.verdict(),
    )


def test_every_test_that_objects_is_named():
    found = replace(compare_answers(*answers(400, 80, 160, 360)), pairs=2)
    found = replace(found, row_interval=(0.03, 0.05), seed_interval=(0.03, 0.05))
    assert found.interval[0] > 0
    p_values = {
        (0.01, 0.02): (),
        (0.01, float("nan")): (),
        (0.06, 0.02): ("p value 0.06 over the rows",),
        (0.01, 0.3): ("p value 0.3 over the seeds",),
        (0.1, 0.3): ("p value 0.1 over the rows", "p value 0.3 over the seeds"),
    }
    for (row_p_value, seed_p_value), objections in p_values.items():
        of = replace(found, row_p_value=row_p_value, seed_p_value=seed_p_value)
        assert of.objections == objections
        assert of.verdict().startswith("no clear difference" if objections else "B is better than A")
        assert " and ".join(objections) in of.verdict()


def test_verdicts_name_what_is_better():
    found = replace(compare_answers(*answers(400, 80, 160, 360)), row_interval=(0.003, 0.013))
    found = replace(found, rows=10_000)
    assert found.verdict() == "B is better than A by 0.8 points (95 % interval 0.3 to 1.3)"
    named = replace(found, names=("l2 0", "l2 0.1"))
    assert named.verdict() == "l2 0.1 is better than l2 0 by 0.8 points (95 % interval 0.3 to 1.3)"
    worse = replace(named, only_a=270, only_b=80, row_interval=(-0.025, -0.014))
    assert worse.verdict() == "l2 0 is better than l2 0.1 by 1.9 points (95 % interval 1.4 to 2.5)"
    alike = replace(found, only_a=100, only_b=120, row_interval=(-0.003, 0.007))
    assert alike.verdict() == "no difference beyond noise (+0.2 points, 95 % interval -0.3 to 0.7)"
    slight = replace(found, only_a=100, only_b=120, row_interval=(0.0006, 0.0034))
    assert slight.verdict() == "B is better than A by 0.20 points (95 % interval 0.06 to 0.34)"
    for ends in ((0.0004, 0.0036), (-0.0036, -0.0004)):
        sides = (100, 120) if ends[0] > 0 else (120, 100)
        near = replace(found, only_a=sides[0], only_b=sides[1], row_interval=ends, row_p_value=0.01)
        assert near.verdict().startswith("no clear difference (")
        assert near.verdict().endswith(", but 0 is near the end of the interval)")


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        (np.ones(3, bool), np.ones(4, bool), r"shapes \(3,\) and \(4,\); expected"),
        (np.ones((1, 1, 3), bool), np.ones((1, 1, 3), bool), "shapes"),
        (np.ones(0, bool), np.ones(0, bool), "shapes"),
        (np.ones(3, bool), np.ones(3, int), "answers are bool and int64; expected bool"),
    ],
)
def test_answers_that_do_not_fit_are_refused(a, b, words):
    with pytest.raises(DataError, match=words):
        compare_answers(a, b)


def test_runs_are_matched_by_seed_and_compared_on_the_split(tmp_path):
    splits = toy_splits()
    seeds_a, seeds_b = (3, 1, 2), (1, 4, 3)
    a = [made_run(tmp_path / "a" / str(seed), splits, replace(CONFIG, seed=seed)) for seed in seeds_a]
    b = [made_run(tmp_path / "b" / str(seed), splits, replace(CONFIG, seed=seed, l2=30.0)) for seed in seeds_b]
    pairing = pair(a, b)
    assert [run.path.name for run in (*pairing.runs_a, *pairing.runs_b)] == ["1", "3", "1", "3"]
    assert pairing.alone == {"A": (2,), "B": (4,)}
    assert (pairing.settings, pairing.names) == ("l2 0 against 30", ("l2 0", "l2 30"))
    for name in ("test", "validation"):
        rows = getattr(splits, name)
        found = compare_runs(a, b, name, splits)
        right_a, right_b = (
            np.array([evaluate(side[i].model, rows).predictions == rows.labels for i in places])
            for side, places in ((a, (1, 0)), (b, (0, 2)))
        )
        assert found == compare_answers(right_a, right_b)
        assert found.names == pairing.names
        assert (found.pairs, found.rows) == (2, 60)
        assert found.only_a + found.only_b > 0


def test_balanced_accuracies_are_compared_where_classes_have_weights(tmp_path):
    splits = toy_splits()
    config = replace(CONFIG, class_weight="class 1=20,class 2=0.1")
    a, b = (
        [made_run(tmp_path / f"{name}{seed}", splits, replace(of, seed=seed)) for seed in (1, 2)]
        for name, of in (("a", CONFIG), ("b", config))
    )
    found = compare_runs(a, b, "test", splits)
    assert compare_runs(a, a, "test", splits).balanced is None
    y = splits.test.labels
    means = [
        np.mean([balanced_accuracy_score(y, evaluate(run.model, splits.test).predictions) for run in side])
        for side in (a, b)
    ]
    assert found.balanced[:2] == pytest.approx(means)
    difference = found.balanced[2]
    assert difference.value == pytest.approx(means[1] - means[0])
    assert abs(difference.value) > 0.02
    assert difference.low < difference.value < difference.high


def test_seeds_that_answer_alike_make_the_balanced_interval_no_narrower():
    (a, b), labels = random_answers(0), np.arange(400) % 7
    one, three = (compare_balanced(np.repeat(a, n, 0), np.repeat(b, n, 0), labels)[2] for n in (1, 3))
    assert (three.low, three.high) == pytest.approx((one.low, one.high))


def test_two_runs_may_have_different_seeds(tmp_path):
    splits = toy_splits()
    a, b = (made_run(tmp_path / str(seed), splits, replace(CONFIG, seed=seed, threads=seed)) for seed in (1, 2))
    assert pair([a], [b]).settings == "the settings are the same, seed 1 against 2"
    assert pair([a], [b]).names == ("A", "B")
    assert compare_runs([a], [b], "test", splits).pairs == 1


def test_runs_of_two_solvers_differ_in_what_both_have(tmp_path):
    splits = toy_splits()
    steps = made_run(tmp_path / "steps", splits, replace(CONFIG, l2=0.1))
    converged = made_run(tmp_path / "converged", splits, TrainConfig(solver="converged", tol=1e-3, seed=CONFIG.seed))
    found = pair([steps], [converged])
    assert found.settings == "solver sgd against converged, l2 0.1 against 0"
    assert found.names == ("solver sgd, l2 0.1", "solver converged, l2 0")
    again = made_run(tmp_path / "again", splits, TrainConfig(solver="converged", l2=0.1, seed=CONFIG.seed))
    assert pair([converged], [again]).settings == "tol 0.001 against 0.0001, l2 0 against 0.1"


def test_runs_that_cannot_be_compared(tmp_path):
    splits = toy_splits()
    one, two, three = (made_run(tmp_path / str(seed), splits, replace(CONFIG, seed=seed)) for seed in (1, 2, 3))
    other = made_run(tmp_path / "other", splits, replace(CONFIG, seed=2, l2=0.5))
    with pytest.raises(ConfigError, match=r"other and \S*1 differ in more than the seed: l2 0\.5 against 0; keep"):
        compare_runs([one, other], [two], "test", splits)
    with pytest.raises(ConfigError, match=r"no seed is common to both sides: A has 1, 2 and B has 3; train"):
        compare_runs([one, two], [three], "test", splits)
    with pytest.raises(ConfigError, match=r"1 and \S*1 both have seed 1"):
        compare_runs([one, one], [two], "test", splits)

    moved = split(splits.dataset, SplitConfig(split_seed=5))
    moved = made_run(tmp_path / "moved", moved, split_config=SplitConfig(split_seed=5))
    with pytest.raises(ConfigError, match=r"moved divides toy in another way: split seed 5 against 0;"):
        compare_runs([one], [moved], "test", splits)
    explicit = made_run(tmp_path / "explicit", splits, split_config=SplitConfig(protocol="stratified", test_size=60))
    compare_runs([one], [explicit], "test", splits)  # other words for the same rows

    elsewhere = made_run(tmp_path / "elsewhere", split(toy_dataset(seed=1), SplitConfig()))
    with pytest.raises(DataError, match=r"elsewhere was trained on other data: fingerprint"):
        compare_runs([one], [elsewhere], "test", splits)
    parts = {"train": slice(0, 180), "validation": slice(180, 240), "test": slice(240, 300)}
    divided = split(replace(toy_dataset(seed=2), parts=parts), SplitConfig())
    given = made_run(tmp_path / "given", divided)
    sized = made_run(tmp_path / "sized", splits, split_config=SplitConfig(validation_size=60))
    with pytest.raises(DataError, match="sized was trained on other data: fingerprint"):
        compare_runs([given], [sized], "test", divided)  # whose division does not apply to these data

    begun = Run.create(tmp_path / "begun")
    plan = Plan(replace(CONFIG, backend="numpy"), SplitConfig(), "toy", splits.dataset.fingerprint)
    begun.write_checkpoint(plan, TrainingState.initial(60, 4, CONFIG))
    with pytest.raises(RunError, match="begun is not complete; go on with: onelayer resume"):
        compare_runs([one], [begun], "test", splits)


def test_runs_are_found_alone_and_in_folders(tmp_path):
    splits = toy_splits()
    paths = [tmp_path / "setting" / name for name in ("0", "1")]
    for path in paths:
        made_run(path, splits)
    (tmp_path / "setting" / "notes.txt").touch()
    (tmp_path / "setting" / "empty").mkdir()
    assert [run.path for run in find_runs(tmp_path / "setting")] == paths
    assert [run.path for run in find_runs(paths[0])] == paths[:1]
    with pytest.raises(RunError, match=r"empty is not a run of onelayer and holds no runs; pass"):
        find_runs(tmp_path / "setting" / "empty")
    for name in ("nowhere", "setting/notes.txt"):
        with pytest.raises(RunError, match=r"(no such|is a file, not a) run directory"):
            find_runs(tmp_path / name)


def test_the_command(tiny_cifar, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for setting, seed, l2 in (("a", 1, 0), ("a", 2, 0), ("b", 2, 0.5), ("b", 1, 0.5), ("b", 3, 0.5)):
        options = [
            "--seed",
            str(seed),
            "--l2",
            str(l2),
            "--epochs",
            "2",
            "--no-figures",
            "--quiet",
            "--preset",
            "coursework",
        ]
        options += ["--learning-rate", "0.1"]
        run_command(["train", "--data", str(tiny_cifar), "--out", f"{setting}/{seed}", *options])
    run_command(["compare", "a", "b"])
    out = capsys.readouterr().out
    assert "note: left out, no partner with this seed: seed 3 of B" in out
    assert "CIFAR-10, test: 60 rows; l2 0 against 0.5" in out
    counts = [int(word) for side in ("right", "wrong") for word in re.findall(rf"A {side} +(\d+) +(\d+)\n", out)[0]]
    assert sum(counts) == 120
    assert f"A a: {(counts[0] + counts[1]) / 1.2:.2f} %" in out
    assert f"B b: {(counts[0] + counts[2]) / 1.2:.2f} %" in out
    for words in (
        "summed over 2 seeds",
        r"p value \S+ \(exact sign test over the rows",
        "over the rows: ",
        "over the seeds: ",
    ):
        assert re.search(words, out)
    assert re.fullmatch(
        r"(l2 0\S* is better than|no difference|no clear difference).* points.*95 % interval .*\)", out.splitlines()[-1]
    )
    splits = load_splits(str(tiny_cifar), SplitConfig())
    sides = ([Run.open(Path(f"{side}/{seed}")) for seed in (1, 2)] for side in "ab")
    found = compare_runs(*sides, "test", splits)
    assert 0 < found.row_p_value < 1
    assert f"p value {found.row_p_value:.2g} (exact sign test over the rows)" in out

    summary = json.loads(Path("a/1/summary.json").read_text())
    del summary["results"]["test"], summary["checksum"]  # as in a sweep that chose another
    Path("a/1/summary.json").write_text(json.dumps(summary))
    run_command(["compare", "a/1", "b/1"])
    out = capsys.readouterr().out
    assert "note: on validation rows, because not all runs have read the test rows" in out
    assert "CIFAR-10, validation: 60 rows" in out

    moved = tiny_cifar.rename(tmp_path / "moved")
    run_command(["compare", "a/1", "b/1", "--split", "validation", "--data", str(moved)])
    out = capsys.readouterr().out
    assert "CIFAR-10, validation: 60 rows" in out
    assert "McNemar's exact test" in out
    assert "over the seeds" not in out


def test_penalties_on_cifar10(cifar, tmp_path):
    splits = load_splits(str(cifar), SplitConfig())
    none, some, much = ([made_run(tmp_path / str(l2), splits, replace(COURSEWORK, l2=l2))] for l2 in (0.0, 0.1, 1.0))
    assert compare_runs(none, some, "test", splits).verdict().startswith("no difference beyond noise")
    found = compare_runs(some, much, "test", splits)
    assert found.interval[0] < -0.019 < found.interval[1] < -0.01
    assert found.verdict().startswith("l2 0.1 is better than l2 1 by 1.")


def test_very_few_rows_decide_nothing_whatever_the_seeds():
    right_a = np.zeros((2, 30), bool)
    right_b = right_a.copy()
    right_b[:, :4] = True
    found = compare_answers(right_a, right_b)
    assert found.interval[0] > 0
    assert found.row_p_value == 0.125
    assert found.verdict().startswith("no clear difference")


def test_the_runs_of_a_setting_of_a_sweep(tmp_path):
    plan = Plan(coursework(epochs=1), SplitConfig(), "toy", toy_splits().dataset.fingerprint)
    for name in ("002-seed-1", "002-seed-2", "003-seed-1"):
        own = replace(plan, config=replace(plan.config, seed=int(name[-1])))
        runs.start(Run.create(tmp_path / "runs" / name), own, Problem.of(toy_splits(), own.config))
    assert [run.path.name for run in find_runs(tmp_path / "runs" / "002")] == ["002-seed-1", "002-seed-2"]
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(RunError, match=r"is a sweep; compare two of its settings, such as .*runs/000"):
        find_runs(tmp_path)


def test_a_path_that_is_there_is_itself_whatever_its_neighbours_are_called(tmp_path):
    splits = toy_splits()
    run = made_run(tmp_path / "runs" / "a", splits)
    made_run(tmp_path / "runs" / "a-seed-7", splits, replace(CONFIG, seed=7))
    assert [run.path for run in find_runs(run.path)] == [run.path]
    inner = made_run(tmp_path / "runs" / "folder" / "x", splits)
    made_run(tmp_path / "runs" / "folder-seed-1", splits)
    assert [run.path for run in find_runs(tmp_path / "runs" / "folder")] == [inner.path]


def test_only_directories_named_by_a_seed_are_runs_of_a_setting(tmp_path):
    splits = toy_splits()
    run = made_run(tmp_path / "runs" / "002-seed-1", splits)
    made_run(tmp_path / "runs" / "002-seed-1-copy", splits)
    (tmp_path / "runs" / "002-seed-1.png").write_bytes(b"")
    assert [run.path for run in find_runs(tmp_path / "runs" / "002")] == [run.path]


# Rows with weights


def test_weighted_rows_count_by_their_weights():
    right_a, right_b = random_answers(0, pairs=3)
    w = np.random.default_rng(1).choice([0, 0.5, 1, 4], 400)
    found = compare_answers(right_a, right_b, w)
    counts = (2 * w).astype(int)
    repeated = compare_answers(right_a.repeat(counts, axis=1), right_b.repeat(counts, axis=1))
    for accuracy in ("accuracy_a", "accuracy_b", "difference"):
        assert getattr(found, accuracy) == pytest.approx(getattr(repeated, accuracy), rel=1e-12)
    assert abs(found.difference - compare_answers(right_a, right_b).difference) > 0.002
    assert found.seed_p_value == pytest.approx(repeated.seed_p_value, rel=1e-9)
    assert found.seed_interval == pytest.approx(repeated.seed_interval, rel=1e-9)
    assert found.rows == np.count_nonzero(w)
    assert found.both + found.only_a + found.only_b + found.neither == pytest.approx(3 * found.rows)


def test_the_intervals_of_weighted_rows_are_those_of_the_ratio():
    (right_a,), (right_b,) = random_answers(0, n=3000)
    w = np.random.default_rng(1).choice([0.2, 1, 5], 3000)
    found = compare_answers(right_a, right_b, w)
    d = right_b.astype(float) - right_a
    ratio = (w @ d) / w.sum()
    error = np.sqrt((w**2) @ (d - ratio) ** 2) / w.sum()  # the delta method's
    assert found.row_interval == pytest.approx((ratio - 1.96 * error, ratio + 1.96 * error), abs=0.1 * error)
    plain = compare_answers(right_a, right_b).row_interval
    assert found.row_interval[1] - found.row_interval[0] > 1.2 * (plain[1] - plain[0])
    z = (w @ d) / np.sqrt((w**2) @ d**2)
    assert found.row_p_value == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.25, abs=3e-4)
    assert 0.001 < found.row_p_value < 0.5


def test_equal_weights_are_none_and_rows_of_weight_zero_are_not_there():
    right_a, right_b = random_answers(0, pairs=2)
    w = np.where(np.arange(400) < 300, 7.0, 0)
    assert compare_answers(right_a, right_b, w) == compare_answers(right_a[:, :300], right_b[:, :300])


@pytest.mark.parametrize("weights", [np.ones(3), np.zeros(400)])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(DataError, match="for 400 rows; expected one each, not all 0"):
        compare_answers(*random_answers(0), weights)


def test_runs_on_weighted_rows(tmp_path):
    weights = np.random.default_rng(0).choice([0, 0.3, 3], 300)
    dataset = toy_dataset()
    labels = np.where(np.random.default_rng(3).random(300) < 0.3, 0, dataset.labels)
    splits = split(replace(dataset, labels=labels, row_weights=weights / weights.mean()), SplitConfig())
    a, b = made_run(tmp_path / "a", splits), made_run(tmp_path / "b", splits, replace(CONFIG, learning_rate=1e-5))
    found = compare_runs([a], [b], "test", splits)
    assert found.accuracy_a == pytest.approx(a.scores["test"].accuracy, rel=1e-6)
    assert found.accuracy_b == pytest.approx(b.scores["test"].accuracy, rel=1e-6)
    assert found.accuracy_a > found.accuracy_b


@pytest.mark.parametrize("side", [5, None, ["runs/1"]])
def test_other_things_than_runs_are_refused_by_name(side, tmp_path):
    run = made_run(tmp_path / "run", toy_splits())
    for sides, name in (((side, run), "A"), ((run, side), "B")):
        with pytest.raises(ConfigError, match=rf"^{name} is a {type(side).__name__}; compare takes runs, their dir"):
            compare(*sides)
