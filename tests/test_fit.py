"""Images of other proportions: every command fits them as training did, and old runs squeeze them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line, tampered
from PIL import Image, ImageOps

from onelayer import Model, Run, SourceConfig, SplitConfig, load, load_splits
from onelayer.data.dataset import Dataset
from onelayer.errors import ConfigError, ModelFileError

SIZE = (12, 9)  # of most images; in the others, of 36 x 9, the stripes are in the middle third
BY_HAND = {
    "squeeze": lambda image: image.resize(SIZE, Image.Resampling.LANCZOS),
    "crop": lambda image: ImageOps.fit(image, SIZE, Image.Resampling.LANCZOS),
    "pad": lambda image: ImageOps.pad(image, SIZE, Image.Resampling.LANCZOS, "white"),
}
TRAIN = ("--learning-rate", 0.01, "--epochs", 5, "--seed", 1, "--quiet", "--no-figures")


def write_stripes(folder, count=60, wide=5, seed=0):
    """Lying and standing stripes with noise; each `wide`-th image has noise on both sides of them."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(40, 160, (9, 12))
        pixels[(slice(None), slice(0, None, 4)) if number % 2 else slice(0, None, 3)] += 50
        if number % wide == 0:
            pixels = np.hstack([rng.integers(0, 255, (9, 12)), pixels, rng.integers(0, 255, (9, 12))])
        path = folder / ("standing" if number % 2 else "lying") / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


def by_hand(folder, fit):
    """Return the rows of a folder's images, fitted by Pillow alone."""
    files = sorted(folder.glob("*/*.png"))
    return np.array([np.asarray(BY_HAND[fit](Image.open(file))).ravel() for file in files])


@pytest.mark.parametrize(("asked", "fit"), [((), "crop"), (("--fit", "pad"), "pad"), (("--fit", "squeeze"), "squeeze")])
def test_a_run_fits_other_images_as_it_fitted_its_own(run_cli, tmp_path, asked, fit):
    own, other = write_stripes(tmp_path / "own"), write_stripes(tmp_path / "other", wide=1, seed=1)  # all are wide
    assert run_cli("train", "--data", own, "--out", "run", *asked, *TRAIN) == (0, "", "")
    model, summary = Model.load("run/model.safetensors"), json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (model.fit, summary["config"]["fit"], model.image_shape) == (fit, fit, (1, 9, 12))
    np.testing.assert_array_equal(load(own, source_config=SourceConfig(fit=fit)).rows, by_hand(own, fit))
    for command in ("evaluate", "resume"):
        assert run_cli(command, "run")[::2] == (0, "")

    P = model.probabilities(by_hand(other, fit))
    files = sorted(other.glob("*/*.png"))
    names = np.array(model.class_names)
    right = np.mean(names[P.argmax(axis=1)] == [file.parent.name for file in files])
    found = json.loads(run_cli("evaluate", "run", "--data", other, "--json")[1])
    assert found["accuracy"] == pytest.approx(right)
    answers = json.loads(run_cli("predict", "run", *files[:3], "--json")[1])
    for answer, file, p in zip(answers, files, P, strict=False):
        assert answer["probabilities"] == pytest.approx(dict(zip(model.class_names, p, strict=True)))
        assert answer["note"].startswith(f"{file}: 36 x 9 was ")
    out = run_cli("explain", "run", files[0])[1]
    for name, p in zip(model.class_names, P[0], strict=True):
        assert re.search(rf"^{name} +{100 * p:.2f} %", out, re.MULTILINE), out
    others = {way: model.probabilities(by_hand(other, way)) for way in BY_HAND if way != fit}
    assert min(abs(P - answers).max() for answers in others.values()) > 0.02, "the ways differ"


def test_the_commands_say_how_images_were_fitted(run_cli, tmp_path):
    own = write_stripes(tmp_path / "own")
    cropped = (
        "note: 12 of 60 images cropped to the proportions of 12 x 9, such as lying/000.png; --fit pad keeps all of them"
    )
    for command in (["data", own], ["train", "--data", own, "--no-figures"]):
        assert cropped in run_cli(*command)[1].splitlines()
    write_stripes(own, 23, wide=1)  # half of them are wide now
    squeezed = (
        "note: 30 of 60 images distorted to fit 36 x 9, such as lying/024.png; --fit crop or --fit pad keeps their "
        "proportions"
    )
    assert squeezed in run_cli("data", own, "--fit", "auto")[1].splitlines()


@pytest.mark.parametrize("fit", ["squeeze", "crop"])
def test_a_run_that_names_no_way_squeezed_its_images(run_cli, tmp_path, fit):
    own = write_stripes(tmp_path / "own")
    assert run_cli("train", "--data", own, "--out", "run", "--fit", fit, *TRAIN)[0] == 0
    run = Run.open("run")
    plan, _ = run.read_checkpoint()
    settings = {"image_size": None, "allow_unreadable": False, "coarse": False}
    assert plan.source_config.fit == fit
    tampered(run, run.checkpoint_path, metadata={"source_config": json.dumps(settings)})
    assert run.read_checkpoint()[0].source_config.fit == "squeeze"
    if fit == "crop":
        assert_one_line(run_cli("evaluate", "run"), "is not the data of this run")
    else:
        assert run_cli("evaluate", "run")[0] == 0


def test_old_files_squeeze():
    run = Path(__file__).parent / "golden" / "run"
    model = Model.load(run / "model.safetensors")
    plan, _ = Run.open(run).read_checkpoint()
    assert (model.fit, plan.source_config.fit) == ("squeeze", "squeeze")


def test_a_model_of_an_unknown_fit_is_refused(run_cli, trained):
    run = Run.open(trained)
    assert run.model.fit == "squeeze", "no image of CIFAR-10 was fitted"
    tampered(run, run.model_path, metadata={"fit": "stretch"})
    with pytest.raises(ModelFileError, match="needs the fit 'stretch'; this onelayer has squeeze, crop, pad; upgrade"):
        _ = run.model


def test_a_way_chosen_for_images_of_one_size_holds_for_others(run_cli, tiny_cifar, tmp_path):
    """CIFAR-10 has images of one size only."""
    run = ["train", "--data", tiny_cifar, "--epochs", 1, "--quiet", "--no-figures"]
    assert run_cli(*run, "--out", "plain")[0] == run_cli(*run, "--out", "padding", "--fit", "pad")[0] == 0
    plain, padding = Run.open("plain"), Run.open("padding")
    assert (plain.model.fit, padding.model.fit) == ("squeeze", "pad")
    assert [of.read_checkpoint()[0].source_config.fit for of in (plain, padding)] == ["auto", "pad"]
    assert padding.read_checkpoint()[0].fingerprint == plain.read_checkpoint()[0].fingerprint


def test_a_sweep_goes_on_with_the_way_it_began(run_cli, tmp_path):
    own = write_stripes(tmp_path / "own")
    sweep = ["sweep", "--data", own, "--out", "sweep", "--epochs", 1, "--l2", 0, 0.1, "--quiet"]
    assert run_cli(*sweep)[::2] == (0, "")
    assert json.loads((tmp_path / "sweep" / "sweep.json").read_text())["source_config"]["fit"] == "crop"
    for same in ([], ["--fit", "crop"]):
        assert run_cli(*sweep, *same)[::2] == (0, "")
    assert_one_line(run_cli(*sweep, "--fit", "pad"), "is another sweep: its fit is crop, not pad; choose another --out")


def test_a_bad_way(run_cli):
    with pytest.raises(ConfigError, match=r"^fit 'stretch' is not auto, squeeze, crop or pad$"):
        SourceConfig(fit="stretch")
    assert run_cli("train", "--fit", "stretch")[0] == 2


def test_parquet_files_are_fitted_too(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = write_stripes(tmp_path / "own")
    files = sorted(folder.glob("*/*.png"))
    table = {"image": [file.read_bytes() for file in files], "label": [file.parent.name for file in files]}
    pq.write_table(pa.table(table), tmp_path / "set.parquet")
    dataset = load(tmp_path / "set.parquet")
    assert dataset.fit == "crop"
    np.testing.assert_array_equal(dataset.rows, by_hand(folder, "crop"))
    splits = load_splits(tmp_path / "set.parquet", SplitConfig(), source_config=SourceConfig(fit="pad"))
    assert isinstance(splits.dataset, Dataset)
    np.testing.assert_array_equal(splits.dataset.rows, by_hand(folder, "pad"))
