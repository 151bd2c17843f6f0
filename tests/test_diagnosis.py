"""The doctor: it reads figures as people type them, knows its own table, and names mistakes that were really made."""

import importlib.util
import itertools
import json
import re
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import norm

import onelayer
from onelayer.cli import main as cli
from onelayer.config import SplitConfig
from onelayer.errors import ConfigError
from onelayer.experiments.coursework.diagnosis import FIGURES, MISTAKES, SIGNATURES, TABLED, diagnose, parse

TABLE = json.loads(SIGNATURES.read_text())
HELD_OUT_SEED = 1000
# Mistakes that show by themselves, and mistakes that cannot be told from none.
VISIBLE = [
    "init-0.1",
    "init-1",
    "penalty-2",
    "rate-0.01",
    "overlap-half",
    "overlap-99",
    "skip-half",
    "pixels-255",
    "pixels-255-both",
    "pixels-1",
    "pixels-1-both",
    "training-rows",
    "training-rows-both",
]
HARMLESS = ["none", "own-mean", "rows-for-columns", "overlap-1", "skip-1"]


@pytest.fixture(scope="session")
def script():
    """The script that made the table."""
    path = Path(__file__).parents[1] / "tools" / "make_signatures.py"
    spec = importlib.util.spec_from_file_location("make_signatures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def splits(cifar):
    return onelayer.load_splits(str(cifar), SplitConfig(protocol="batch"))


def first(figures: dict[tuple[str, str], float]) -> list[str]:
    return [diagnosis.name for diagnosis in diagnose(figures) if diagnosis.tied]


# the figures of a command line


def test_the_example_of_the_manual():
    figures = parse(["--setting", "0.001,0", "--test", "28.6", "--setting", "0.001,0.1", "--test", "33.2"])
    assert figures == {("0.001,0", "test"): pytest.approx(0.286), ("0.001,0.1", "test"): pytest.approx(0.332)}
    assert first(figures) == ["init-0.1"]


def test_every_figure_can_be_given():
    words = [word for figure in FIGURES for word in (f"--{figure}", "0.5")]
    assert parse(["--setting", "0.1,0", *words]) == {("0.1,0", figure): 0.5 for figure in FIGURES}


@pytest.mark.parametrize(
    ("words", "figures"),
    [
        ("--setting=1e-3,1.0 --test=39", {("0.001,1", "test"): 0.39}),
        ("--setting 0.1,0 --test 0.281", {("0.1,0", "test"): 0.281}),
        ("--setting 0.1,0 --test 1", {("0.1,0", "test"): 1.0}),
        ("--setting 0.1,0 --test-loss 39", {("0.1,0", "test-loss"): 39.0}),
        (
            "--setting 0.1,0 --train 40 --setting 0.001,0 --train 45 --setting 0.1,0 --test 28",
            {("0.1,0", "train"): 0.4, ("0.001,0", "train"): 0.45, ("0.1,0", "test"): 0.28},
        ),
    ],
)
def test_figures_belong_to_the_setting_before_them(words, figures):
    assert parse(words.split()) == pytest.approx(figures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "diagnose needs figures; give some, such as --setting 0.001,0 --test 28.6"),
        ("--test 28.6", "--test 28.6 comes before any --setting; put --setting 0.001,0 or another before it"),
        ("--setting 0.01,0 --test 1", "--setting 0.01,0: the table knows the settings 0.1,0 0.001,0 0.001,0.1 0.001,1"),
        ("--setting fast --test 1", "--setting fast: the table knows"),
        ("--setting 0.1,0", "--setting 0.1,0 has no figure after it; add one, such as --test 28.6"),
        ("--setting 0.1,0 --setting 0.001,0 --test 1", "--setting 0.1,0 has no figure after it"),
        ("--setting", "--setting needs a value"),
        ("--setting 0.1,0 --test --train 3", "--test needs a value"),
        ("--setting 0.1,0 --tset 3", "--tset is not an option of diagnose; did you mean --test?"),
        ("--setting 0.1,0 28.6", "28.6 is not an option of diagnose"),
        ("--setting 0.1,0 --lr 0.001", "--lr is not an option of diagnose; options are"),
        ("--setting 0.1,0 --test good", "--test takes a number, not 'good'"),
        ("--setting 0.1,0 --test 101", "--test 101: an accuracy is 0 to 100, in percent; --test-loss takes a loss"),
        ("--setting 0.1,0 --test -1", "--test -1: an accuracy is 0 to 100"),
        ("--setting 0.1,0 --test nan", "--test nan: an accuracy is 0 to 100"),
        ("--setting 0.1,0 --train-cost -1", "--train-cost -1: a loss or cost is a number of at least 0, in nats"),
        ("--setting 0.1,0 --train-cost inf", "--train-cost inf: a loss or cost is a number"),
        ("--setting 0.1,0 --test 3 --test 4", "--test is given twice for the setting 0.1,0; give it once"),
    ],
)
def test_what_is_wrong_is_named(words, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse(words.split())


# the ranking


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_signature_s_own_means_are_diagnosed_as_it(mistake):
    signature = TABLE["signatures"][mistake]
    figures = {(setting, figure): signature[setting][figure][0] for setting in TABLED for figure in FIGURES}
    assert mistake in first(figures)
    own = next(diagnosis for diagnosis in diagnose(figures) if diagnosis.name == mistake)
    assert own.worst == 0
    if mistake in VISIBLE:
        assert first(figures) == [mistake]


def test_figures_that_nothing_explains():
    diagnoses = diagnose({("0.001,0", "train"): 0.8, ("0.001,0", "test"): 0.8})
    assert not any(diagnosis.explains for diagnosis in diagnoses)


def test_no_mistake_leads_those_that_cannot_be_told_from_it():
    names = first({("0.001,0", "test"): 0.390})
    assert names[0] == "none"
    assert {"penalty-2", *HARMLESS} <= set(names), "lambda is 0"


def test_mistakes_are_tied_up_to_a_tenfold_likelihood():
    """By the densities themselves, at figures that lie on the way from each mistake to each other."""
    tied, apart = [], []
    place, names = ("0.001,0", "test"), list(TABLE["signatures"])
    means = {name: TABLE["signatures"][name][place[0]][place[1]][0] for name in names}
    for name, other in itertools.permutations(names, 2):
        for way in np.linspace(0, 0.5, 11):
            best, *rest = diagnose({place: means[name] + way * (means[other] - means[name])})
            for diagnosis in rest:
                (p,), (q,) = diagnosis.predictions, best.predictions
                if abs(p.mean - q.mean) <= max(p.spread, q.spread) or not diagnosis.explains or best.name == "none":
                    continue
                ratio = NormalDist(q.mean, q.spread).pdf(q.given) / NormalDist(p.mean, p.spread).pdf(p.given)
                (tied if diagnosis.tied else apart).append(ratio)
    assert 5 < max(tied) < 10 < min(apart) < 20


def test_the_likelihood_is_a_product_of_normal_densities():
    figures = {("0.001,0", "test"): 0.28, ("0.001,1", "train-cost"): 1.9}
    diagnoses = diagnose(figures)
    expected = [sum(norm.logpdf(p.given, p.mean, p.spread) for p in d.predictions) for d in diagnoses]
    constant = diagnoses[0].log_likelihood - expected[0]
    assert [d.log_likelihood for d in diagnoses] == pytest.approx([constant + x for x in expected])
    assert len({d.predictions[0].spread for d in diagnoses}) > 5
    mean, sd = TABLE["signatures"][diagnoses[0].name]["0.001,0"]["test"]
    assert diagnoses[0].predictions[0].mean == mean
    assert diagnoses[0].predictions[0].spread ** 2 == pytest.approx((1 + 1 / len(TABLE["seeds"])) * sd**2 + 0.003**2)


# the real data


def test_the_table_is_complete():
    assert list(TABLE["signatures"]) == list(MISTAKES)
    for signature in TABLE["signatures"].values():
        assert {setting: tuple(figures) for setting, figures in signature.items()} == dict.fromkeys(TABLED, FIGURES)
    assert HELD_OUT_SEED not in TABLE["seeds"]


def test_the_script_makes_the_table(script, splits):
    assert splits.dataset.fingerprint == TABLE["data"]["fingerprint"]
    for mistake in ("init-0.1", "pixels-1"):
        figures = script.figures(splits, mistake, script.config("0.001,0.1", TABLE["seeds"][0]))
        for figure, (mean, sd) in TABLE["signatures"][mistake]["0.001,0.1"].items():
            assert abs(figures[figure] - mean) <= 4 * sd + 1e-4, (mistake, figure)


def test_without_a_mistake_the_script_trains_as_onelayer_does(script, splits):
    config = script.config("0.001,0.1", HELD_OUT_SEED)
    figures = script.figures(splits, "none", config)
    result = onelayer.train(splits, config)
    for name, score in result.scores.items():
        assert (score.accuracy, score.loss, score.cost) == tuple(
            figures[name + what] for what in ("", "-loss", "-cost")
        )
    first_epoch = result.state.history[0]
    assert figures["test-epoch-1"] == first_epoch.test_accuracy
    assert figures["validation-cost-epoch-1"] == first_epoch.validation_cost


def test_planted_mistakes_are_named_first(script, splits):
    named = {}
    visible = [mistake for mistake in VISIBLE if not mistake.endswith("-both")]  # those are much like the others
    for mistake in [*visible, *HARMLESS]:
        seen = script.figures(splits, mistake, script.config("0.001,0.1", HELD_OUT_SEED))
        # as people note them down: percent with a decimal, nats with three
        named[mistake] = first({("0.001,0.1", name): round(figure, 3) for name, figure in seen.items()})
    hits = [named[mistake] == [mistake] for mistake in visible]
    assert sum(hits) >= 0.9 * len(visible), named
    for mistake in HARMLESS:
        assert named[mistake][0] == "none", named
        assert mistake in named[mistake], named


# the command


@pytest.fixture
def run_diagnose(capsys):
    """``run_diagnose("--setting 0.001,0 --test 28.6")`` -> the lines that it prints."""

    def run(words: str) -> list[str]:
        cli.run_command(["diagnose", *words.split()])
        return capsys.readouterr().out.splitlines()

    return run


def test_the_command_names_a_mistake_and_shows_what_it_predicts(run_diagnose):
    lines = run_diagnose("--setting 0.001,0 --test 28.6 --setting 0.001,0.1 --test_loss=1.97")
    assert lines[0] == "This explains the 2 figures:"
    assert lines[1].startswith("init-0.1: initial weights of standard deviation 0.1 (")
    assert lines[2].startswith("    draw them with 0.01")
    assert lines[4].split()[:4] == ["setting", "figure", "given", "init-0.1"]
    assert re.match(r"0\.001,0 +test +28\.6 % +2[789]\.\d % ± 0\.\d %  ", lines[5])
    assert re.match(r"0\.001,0\.1 +test-loss +1\.970 +1\.9\d\d ± 0\.0\d\d  ", lines[6])


def test_the_command_says_what_cannot_be_told_apart(run_diagnose):
    lines = run_diagnose("--setting 0.001,0 --test 39.0")
    assert lines[0].startswith("Each of these explains the figure")
    assert lines[1].startswith("none: no mistake (")
    assert any(line.startswith("rows-for-columns: rows and columns of the images mixed up") for line in lines)


def test_the_command_says_if_nothing_explains_the_figures(run_diagnose):
    lines = run_diagnose("--setting 0.001,0 --test 80")
    assert lines[0] == "No known mistake explains the figure. The nearest is:"


def test_the_command_s_errors_and_help(run_diagnose):
    with pytest.raises(ConfigError, match="comes before any --setting"):
        run_diagnose("--test 28.6")
    text = " ".join(" ".join(run_diagnose("--help")).split())
    assert "onelayer diagnose --setting 0.001,0 --test 28.6" in text


@pytest.mark.parametrize("word", ["--lr", "--lr=0.001", "--eta", "--n_epochs", "--Test"])
def test_the_command_s_errors_repeat_the_word_that_was_typed(run_diagnose, word):
    with pytest.raises(ConfigError, match=f"^{word.partition('=')[0]} is not an option of diagnose"):
        run_diagnose(f"--setting 0.001,0 {word} 1")
