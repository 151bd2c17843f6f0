"""The gradient check passes right gradients and fails each way of getting them wrong."""

import sys

import numpy as np
import pytest

from onelayer.analysis.gradcheck import ORACLES, GradientComparison, GradientReport, check_gradients
from onelayer.errors import ConfigError
from onelayer.losses import LOSSES, BinaryCrossEntropy

NUMPY_ALONE = ["complex step", "central differences"]


def example(n=3, d=10, K=10, seed=0):
    """Rows like those of images: features go together, and are skewed."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal((n, 3)) @ rng.standard_normal((3, d))
    return common + 0.3 * rng.standard_exponential((n, d)), rng.integers(0, K, n)


def student(loss="softmax", mistake=""):
    """Cost and gradients as somebody else would write them, with one mistake."""

    def function(W, b, X, y, l2):
        n, K = len(y), len(b)
        S, Y = X @ W + b, np.eye(K)[y]
        if loss == "softmax":
            shift = 0 if mistake == "no shift" else S.max(axis=1, keepdims=True)
            E = np.exp(S - shift)
            P = E / E.sum(axis=1, keepdims=True)
            rows = np.log(E.sum(axis=1)) - np.sum((S - shift) * Y, axis=1)
            if "log(P)" in mistake:
                rows = -np.log(np.sum(P * Y, axis=1))
            if "log(P + eps)" in mistake:
                rows = -np.log(np.sum(P * Y, axis=1) + 1e-9)
        else:
            P = 1 / (1 + np.exp(-S))
            rows = np.mean(np.logaddexp(0, S) - Y * S, axis=1)
            if mistake == "naive sigmoid":
                rows = -np.mean(Y * np.log(P) + (1 - Y) * np.log(1 - P), axis=1)
        G = (P - Y) / n
        if loss == "sigmoid" and mistake != "1/K forgotten":
            G = G / K
        if mistake == "mean left out":
            G = n * G
        if mistake == "sign of a class":
            G[:, 1] *= -1
        cost = rows.mean() + l2 * np.sum(W**2)
        dW = X.T @ G + (1 if mistake.startswith("2 dropped") else 2) * l2 * W
        db = G.sum(axis=0)
        if mistake == "bias penalised":
            db = db + 2 * l2 * b
        if mistake == "bias penalised, cost too":
            cost, db = cost + l2 * np.sum(b**2), db + 2 * l2 * b
        if mistake == "mean left out, cost too":
            cost, dW, db = n * cost, n * dW, n * db
        if mistake == "halved cost":
            cost = rows.mean() + l2 / 2 * np.sum(W**2)
        if mistake == "transposed":
            dW = dW.T
        if mistake == "last class forgotten":
            db[-1] = 0
        return cost, dW, db

    return function


BROKEN = [
    ("softmax", "no shift"),
    ("sigmoid", "naive sigmoid"),
    ("sigmoid", "1/K forgotten"),
    *(
        (loss, mistake)
        for loss in ("softmax", "sigmoid")
        for mistake in (
            "2 dropped",
            "bias penalised",
            "bias penalised, cost too",
            "mean left out",
            "mean left out, cost too",
            "halved cost",
            "sign of a class",
            "transposed",
            "last class forgotten",
        )
    ),
]


@pytest.mark.parametrize("oracle", ["PyTorch", "complex step"])
@pytest.mark.parametrize(("loss", "mistake"), BROKEN)
def test_a_mistake_is_caught_by_orders_of_magnitude(loss, mistake, oracle):
    if oracle == "PyTorch":
        pytest.importorskip("torch")
    X, y = example(d=5, K=5)  # d = K: the shape does not give a transposed gradient away
    report = check_gradients(X, y, n_classes=5, function=student(loss, mistake), loss=loss, oracles=[oracle])
    assert not report.passed
    assert max(c.error / c.tolerance for c in report.comparisons) > 1e6


@pytest.mark.parametrize(("loss", "mistake"), [case for case in BROKEN if "cost" not in case[1]])
def test_central_differences_alone_catch_what_disagrees_with_its_own_cost(loss, mistake):
    X, y = example(d=5, K=5)
    function = student(loss, mistake)
    report = check_gradients(X, y, n_classes=5, function=function, loss=loss, oracles=["central differences"])
    assert not report.passed


@pytest.mark.parametrize("mistake", ["bias penalised, cost too", "mean left out, cost too"])
def test_central_differences_tell_that_the_gradient_belongs_to_the_wrong_cost(mistake):
    X, y = example()
    report = check_gradients(X, y, n_classes=10, function=student(mistake=mistake), oracles=NUMPY_ALONE)
    assert {c.oracle for c in report.comparisons if not c.passed} == {"complex step"}
    assert report.message.startswith("cost is ")


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_right_function_of_somebody_else_passes(loss):
    for seed in range(3):
        report = check_gradients(*example(seed=seed), n_classes=10, function=student(loss), loss=loss, seed=seed)
        assert report.passed, report.message


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_layer_passes_at_the_default_size(loss):
    for seed in range(3):
        report = check_gradients(*example(seed=seed), n_classes=10, loss=loss, seed=seed)
        assert report.passed, report.message
        for c in report.comparisons:
            ordinary = 1e-14 if c.point == "ordinary" else 1e-11
            assert c.tolerance == pytest.approx(1e-6 if c.oracle == "central differences" else ordinary, rel=0.2)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    ("n", "d", "K"), [(1, 1, 2), (1, 1, 1), (2, 1, 2), (1, 10, 10), (3, 10, 1), (100, 3, 2), (20, 15, 3), (300, 3, 3)]
)
def test_the_layer_passes_at_other_sizes(loss, n, d, K):
    report = check_gradients(*example(n, d, K), n_classes=K, loss=loss)
    assert report.passed, report.message


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("n", [1, 100])
def test_the_layer_passes_at_the_size_of_cifar(loss, n):
    pytest.importorskip("torch")
    report = check_gradients(*example(n, 3072), n_classes=10, loss=loss, oracles=["PyTorch"])
    assert report.passed, report.message


def test_rows_of_zeros_and_labels_of_few_bits():
    """One row, standardised by itself, is zero; and NumPy holds labels in a byte."""
    report = check_gradients(np.zeros((1, 4)), np.array([2], "uint8"))
    assert report.passed, report.message


def test_the_points_are_not_trivial():
    seen = []

    def spy(W, b, X, y, l2):
        seen.append((np.abs(X @ W + b).max(), *student()(W, b, X, y, l2)[1:], b))
        return student()(W, b, X, y, l2)

    for seed in range(20):  # one row is often right by chance, and then large logits leave no gradient
        check_gradients(*example(n=1, K=2, seed=seed), n_classes=2, function=spy, l2=[0.0], oracles=["complex step"])
    for (small, *gradients, b), (large, *large_gradients, _) in zip(seen[::2], seen[1::2], strict=True):
        assert 0.01 < small < 10
        assert large == pytest.approx(1e4)
        assert (b != 0).all()
        assert all(np.abs(g).max() > 1e-3 for g in gradients)
        assert np.abs(large_gradients[1]).max() > 0.4


def test_the_message_names_oracle_element_and_error():
    function = student(mistake="2 dropped")
    report = check_gradients(*example(), n_classes=10, function=function, oracles=["complex step"])
    worst = next(c for c in report.comparisons if not c.passed)
    j, k = worst.index
    assert (worst.parameter, worst.l2, worst.point) == ("dW", 0.1, "ordinary")
    assert report.message == (
        f"dW[{j}, {k}] is {worst.value:.6g}, according to complex step {worst.expected:.6g}: "
        f"relative error {worst.error:.1e}, over 1e-14 (softmax, l2 0.1, ordinary logits)"
    )


def test_the_message_of_a_comparison():
    comparison = GradientComparison("softmax", 0.1, "large", "PyTorch", "db", (3,), 0.0123, 0.0246, 1 / 3, 1e-11)
    assert str(comparison) == (
        "db[3] is 0.0123, according to PyTorch 0.0246: relative error 3.3e-01, over 1e-11 "
        "(softmax, l2 0.1, large logits)"
    )


def test_the_message_of_an_overflow():
    report = check_gradients(*example(), n_classes=10, function=student(mistake="no shift"), oracles=["complex step"])
    assert report.message.startswith("cost is ")
    assert report.message.endswith(
        ": not a finite number, does an exponential overflow or a logarithm see 0? (softmax, l2 0, large logits)"
    )


@pytest.mark.parametrize(
    ("naive", "oracle"),
    [("log(P)", "complex step"), ("log(P)", "central differences"), ("log(P + eps)", "central differences")],
)
def test_a_cost_that_fails_at_large_logits_does_not_hide_a_wrong_gradient(naive, oracle):
    for mistake, wrong in ((naive, False), (f"2 dropped, {naive}", True)):
        function = student(mistake=mistake)
        report = check_gradients(*example(), n_classes=10, function=function, oracles=[oracle])
        assert not report.passed
        *first, last = report.message.split("; ")
        assert last.endswith(" large logits)")
        if naive == "log(P)":
            assert ": not a finite number, does an exponential overflow or a logarithm see 0? (" in last
        if not wrong:
            assert first == []
            continue
        (found,) = first
        assert found.startswith("dW[")
        assert found.endswith(" (softmax, l2 0.1, ordinary logits)")


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_large_gradients_are_checked_in_a_sample_and_it_is_said(loss):
    calls = []
    report = check_gradients(
        *example(50, 300), n_classes=10, loss=loss, l2=[0.1], progress=lambda done, total: calls.append((done, total))
    )
    assert report.passed, report.message
    assert calls == [(i, 800) for i in range(1, 801)]
    words = "complex step and central differences: 200 of 3,010 elements, drawn with seed 42"
    assert report.sample == words
    assert report.message.endswith(f"; {words}")
    for mistake in ("2 dropped", "mean left out", "sign of a class", "last class forgotten", "bias penalised"):
        settings = {"n_classes": 10, "loss": loss, "l2": [0.1], "oracles": ["central differences"]}
        report = check_gradients(*example(2, 300), function=student(loss, mistake), **settings)
        assert not report.passed, mistake


def test_a_sample_depends_on_the_seed_alone():
    seen = []
    for seed in (1, 1, 2):
        found = []

        def function(W, b, X, y, l2, found=found):
            cost, dW, db = student()(W, b, X, y, l2)
            found.append(np.flatnonzero(W.ravel() - found[0]) if found else W.ravel().copy())
            return cost, dW, db

        settings = {"n_classes": 10, "l2": [0], "oracles": ["central differences"]}
        check_gradients(*example(2, 400, 10), function=function, seed=seed, **settings)
        seen.append({int(place[0]) for place in found[1:] if len(place) == 1})
    assert len(seen[0]) > 100
    assert seen[0] == seen[1] != seen[2]


def test_the_work_at_the_size_of_cifar_is_bounded():
    class Enough(Exception):  # noqa: N818, it is not an error
        pass

    def stop(done, total):
        assert total == 2 * 2 * 2 * 200
        raise Enough

    with pytest.raises(Enough):
        check_gradients(*example(500, 3072), n_classes=10, progress=stop)
    report = check_gradients(*example(3, 3072), n_classes=10, l2=[0.1], oracles=["complex step"])
    assert report.passed, report.message


def test_gradients_of_2000_elements_are_checked_whole():
    report = check_gradients(*example(1, 199, 10), n_classes=10, l2=[0], oracles=["central differences"])
    assert report.sample == ""
    assert "elements" not in report.message


class Squares(BinaryCrossEntropy):
    """A third loss: half the squared distance of the logits from the one-hot labels."""

    name = "squares"
    pytorch = None

    def curvature(self, K):
        return 1.0

    def probabilities(self, S):
        return S

    def of_rows(self, S, y):
        return ((S - np.eye(S.shape[1])[y]) ** 2).sum(axis=1) / 2

    def residual(self, S, y):
        return (S - np.eye(S.shape[1])[y]) / len(S)


def test_a_third_loss_is_compared_with_its_own_oracles_only(monkeypatch):
    monkeypatch.setitem(LOSSES, "squares", Squares())
    report = check_gradients(*example(), n_classes=10, loss="squares")
    assert report.passed, report.message
    assert {c.oracle for c in report.comparisons} == set(NUMPY_ALONE)
    assert report.skipped == {"PyTorch": "PyTorch is not compared: the loss squares has no PyTorch reference"}
    monkeypatch.setattr(Squares, "residual", lambda self, S, y: S - np.eye(S.shape[1])[y])
    assert not check_gradients(*example(), n_classes=10, loss="squares").passed


def test_the_message_of_a_right_gradient_is_its_worst():
    report = check_gradients(*example(), n_classes=10, oracles=["complex step"])
    assert report.passed
    assert ", within 1e-" in report.message


def test_without_pytorch_its_oracle_is_skipped(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    report = check_gradients(*example(), n_classes=10)
    assert report.passed
    assert report.skipped == {
        "PyTorch": "PyTorch is not installed; with it (pip install torch) its autograd is compared too"
    }
    assert {c.oracle for c in report.comparisons} == set(NUMPY_ALONE)
    alone = check_gradients(*example(), n_classes=10, oracles=["PyTorch"])
    assert not alone.passed
    assert alone.message.startswith("nothing was compared; PyTorch is not installed")


def test_every_case_is_compared():
    pytest.importorskip("torch")
    report = check_gradients(*example(), n_classes=10)
    assert isinstance(report, GradientReport)
    assert {c.oracle for c in report.comparisons} == set(ORACLES)
    assert len(report.comparisons) == 2 * 2 * (3 + 3 + 2)  # l2, points, and what each oracle judges
    assert report.skipped == {}


def test_progress_counts_to_the_end():
    calls = []
    check_gradients(*example(2, 3, 4), n_classes=4, progress=lambda done, total: calls.append((done, total)))
    total = 2 * 2 * 2 * (3 * 4 + 4)
    assert calls == [(i, total) for i in range(1, total + 1)]


def test_the_same_seed_gives_the_same_report():
    first, again, other = (check_gradients(*example(2, 3, 4), oracles=NUMPY_ALONE, seed=seed) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda cost, dW, db: (cost, dW.T, db), r"dW must have shape \(5, 4\), .* \(4, 5\); transpose it: dW.T"),
        (lambda cost, dW, db: (cost, dW, db[:, None]), r"db must have shape \(4,\), the function returned \(4, 1\)$"),
        (lambda cost, dW, db: (np.full(3, cost), dW, db), r"cost must have shape \(\), the function returned \(3,\)$"),
        (lambda cost, dW, db: (dW, db), "must return three things: cost, dW, db"),
        (lambda cost, dW, db: None, "must return three things: cost, dW, db"),
    ],
)
def test_a_function_that_returns_something_else(returned, message):
    def function(*arguments):
        return returned(*student()(*arguments))

    with pytest.raises(ConfigError, match=message):
        check_gradients(*example(d=5, K=4), n_classes=4, function=function)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.zeros(3)}, r"X must be rows \(n, d\)"),
        ({"X": np.zeros((0, 3)), "y": np.zeros(0, int)}, r"X must be rows \(n, d\)"),
        ({"X": np.full((3, 2), np.nan)}, "finite"),
        ({"y": np.array([0, 1])}, "y must be 3 integers"),
        ({"y": np.array([0.0, 1.0, 1.0])}, "y must be 3 integers"),
        ({"n_classes": 1}, r"labels must lie in 0..0, these go from 0 to 1"),
        ({"loss": "hinge"}, "'hinge' is not known: choose from softmax, sigmoid"),
        ({"oracles": ["Delphi"]}, "'Delphi' is not known: choose from PyTorch, complex step, central differences"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_gradients(**{"X": np.ones((3, 2)), "y": np.array([0, 1, 1]), **arguments})


def as_columns(function):
    """A function of the course's layout: W (K, d), b (K, 1), X (d, n), one-hot Y (K, n)."""

    def of_columns(W, b, X, Y, l2):
        assert (W.shape, b.shape, Y.shape) == ((len(Y), len(X)), (len(Y), 1), (len(Y), X.shape[1]))
        cost, dW, db = function(W.T, b[:, 0], X.T, Y.argmax(axis=0), l2)
        return cost, dW.T, db[:, np.newaxis]

    return of_columns


def test_columns_are_checked_as_rows_are():
    X, y = example(4, 6, 5)
    for mistake in ("", "sign of a class", "bias penalised"):
        of_rows = check_gradients(X, y, n_classes=5, function=student(mistake=mistake), oracles=NUMPY_ALONE)
        settings = {"function": as_columns(student(mistake=mistake)), "layout": "columns", "oracles": NUMPY_ALONE}
        for of_columns in (
            check_gradients(X.T, np.eye(5)[:, y], **settings),
            check_gradients(X.T, y, n_classes=5, **settings),
        ):
            assert of_columns.passed == of_rows.passed == (not mistake)
            for ours, theirs in zip(of_columns.comparisons, of_rows.comparisons, strict=True):
                place = {"dW": theirs.index[::-1], "db": (*theirs.index, 0), "cost": ()}[theirs.parameter]
                assert ours.passed == theirs.passed
                assert ours.passed or (ours.index, ours.value) == (place, pytest.approx(theirs.value, rel=1e-9))
    assert check_gradients(X.T, np.eye(5)[:, y], layout="columns", oracles=["complex step"]).passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X": np.ones((2, 3)), "y": np.array([0, 1, 1])}, 'each column of X is a sample, pass layout="columns"'),
        ({"X": np.ones((2, 3)), "y": np.eye(3)}, 'each column of X is a sample, pass layout="columns"'),
        ({"y": np.eye(3)[:, :2].repeat(2, axis=1)}, r"pass labels: y.argmax\(axis=1\)"),
        ({"y": np.array([0, 1, 1]), "layout": "columns"}, "each row of X is a sample, leave layout out"),
        ({"X": np.ones((2, 3)), "y": np.ones((4, 3)), "layout": "columns"}, r"Y \(K, n\) must be one-hot"),
        ({"X": np.ones((2, 3)), "y": np.eye(3), "layout": "columns", "n_classes": 4}, "3 classes, but n_classes is 4"),
        ({"layout": "diagonal"}, "'diagonal' is not known: choose from rows, columns"),
    ],
)
def test_shapes_that_do_not_fit_are_explained(arguments, message):
    with pytest.raises(ConfigError, match=message):
        check_gradients(**{"X": np.ones((3, 2)), "y": np.array([0, 1, 1]), **arguments})


def test_the_gradients_of_columns_must_be_columns():
    def flat(W, b, X, Y, l2):
        cost, dW, db = as_columns(student())(W, b, X, Y, l2)
        return cost, dW, db[:, 0]

    X, y = example(4, 6, 5)
    with pytest.raises(ConfigError, match=r"db must have shape \(5, 1\), .* \(5,\); make it a column: db\[:, np"):
        check_gradients(X.T, y, n_classes=5, function=flat, layout="columns")


def test_a_report_says_first_what_agrees_and_shows_a_table():
    right, wrong = (
        check_gradients(*example(), function=student(mistake=mistake), oracles=["complex step"], n_classes=10)
        for mistake in ("", "2 dropped")
    )
    assert right.agreement == "cost, dW and db agree with every oracle (12 of 12 comparisons)"
    assert wrong.agreement == f"cost and db agree with every oracle (10 of 12 comparisons); wrong: {wrong.message}"
    first, _, *lines = repr(wrong).splitlines()
    assert first == wrong.agreement
    assert str(right) == repr(right)
    assert [line.split()[-1] for line in lines] == ["right", "right", "wrong", "wrong"]
    assert all(line.startswith("complex step") for line in lines)
    html = wrong._repr_html_()
    assert html.count("<tr>") == 5
    assert html.count("<td>wrong</td>") == 2
    sharp = check_gradients(*example(), function=student(mistake="no shift"), oracles=["complex step"], n_classes=10)
    assert sharp.agreement.startswith(
        "cost, dW and db agree with every oracle at ordinary logits (6 of 12 comparisons); "
    )
    none = check_gradients(*example(), function=student(mistake="mean left out, cost too"), oracles=["complex step"])
    assert none.agreement.startswith("nothing agrees with every oracle (0 of 12 comparisons); wrong: ")
