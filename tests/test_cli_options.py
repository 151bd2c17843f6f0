"""Words of the command line and of a TOML file: aliases, and one line for each mistake."""

import json
import re

import pytest
from helpers import assert_one_line
from PIL import Image

from onelayer.cli.app import ALIASES, takes
from onelayer.cli.hints import _PROCESSES, HINTS


def test_the_words_of_the_course_are_aliases(run_cli, tiny_cifar, tmp_path):
    words = ["--eta", "0.02", "--lam=0.5", "--n-batch", "7", "--n_epochs", "1"]
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", "--no-figures", *words)[0] == 0
    config = json.loads((tmp_path / "run" / "summary.json").read_text())["config"]
    assert (config["learning_rate"], config["l2"], config["batch_size"], config["epochs"]) == (0.02, 0.5, 7, 1)


def test_synonyms_are_aliases(run_cli, tiny_cifar, tmp_path):
    words = ["--lambda", "0.5", "--bs=7", "--val-size", "20", "--random-state", "5", "--lr", "0.02"]
    words += ["--data", tiny_cifar, "--protocol", "full", "--epochs", "1"]
    assert run_cli("train", "--out", "run", "--no-figures", *words)[0] == 0
    config = json.loads((tmp_path / "run" / "summary.json").read_text())["config"]
    found = [config[name] for name in ("l2", "batch_size", "validation_size", "seed", "learning_rate")]
    assert found == [0.5, 7, 20, 5, 0.02]


def test_a_toml_file_sets_options_and_the_command_line_wins(run_cli, tiny_cifar, tmp_path):
    (tmp_path / "settings.toml").write_text(
        f'data = "{tiny_cifar}"\neta = 0.02\nl2 = 1\nflip = true\nepochs = 1\nprotocol = "full"\n'
        "validation-size = 30\nno_figures = true\nout = 'run'\n"
    )
    assert run_cli("train", "--config", "settings.toml", "--l2", "0.25")[0] == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    config = summary["config"]
    assert (config["learning_rate"], config["l2"], config["flip"], config["epochs"]) == (0.02, 0.25, True, 1)
    assert summary["data"]["sizes"] == {"train": 270, "validation": 30, "test": 60}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learning_rat = 1", r"bad\.toml: unknown option learning_rat; did you mean learning_rate\?"),
        ("learning_rate = 'fast'", r"bad\.toml: --learning-rate takes a number or auto, not 'fast'$"),
        ("learning_rate = ", r"bad\.toml is not a TOML file: "),
        ("epochs = [1, 2]", r"bad\.toml: epochs takes one value, not \[1, 2\]"),
        ("flip = 2", "bad.toml"),
        ("epochs = 1.5", r"bad.toml: --epochs takes a whole number or auto, not '1\.5'$"),
        ("a = " + "[" * 50_000, "bad.toml is not a TOML file"),
        ("learning_rate = -1", "learning rate -1 is not a positive number"),
        ("[train]\nepochs = 1", r"bad\.toml: unknown option train; remove it$"),
        ("eta = 0.1\nlearning_rate = 0.2", r"bad\.toml: eta and learning_rate are the same option; keep one of them"),
        ("n-epochs = 1\nn_epochs = 1", r"bad\.toml: n-epochs and n_epochs are the same option; keep one of them"),
    ],
)
def test_a_bad_toml_file_is_one_line(run_cli, tmp_path, content, words):
    (tmp_path / "bad.toml").write_text(content)
    assert_one_line(run_cli("train", "--config", "bad.toml"), words)


def test_a_toml_file_may_begin_with_a_byte_order_mark(run_cli, tiny_cifar, tmp_path):
    (tmp_path / "settings.toml").write_text("epochs = 1\nno_figures = true", encoding="utf-8-sig")
    assert run_cli("train", "--data", tiny_cifar, "--out", "run", "--config", "settings.toml")[0] == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["config"]["epochs"] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--learning-rate", "0"], "learning rate 0 is not a positive number"),
        (["--learning-rate", "-0.1"], "learning rate -0.1 is not a positive number"),
        (["--learning-rate", "nan"], "learning rate nan is not a positive number"),
        (["--eta", "0"], "learning rate 0 is not a positive number"),
        (["--batch-size", "0"], "batch size 0 is not a whole number of at least 1"),
        (["--l2", "-1"], "l2 -1 is not zero or a positive number"),
        (["--epochs", "-1"], "epochs -1 is not a whole number of at least 0"),
        (["--epochs", "many"], "--epochs takes a whole number or auto, not 'many'$"),
        (["--epochs", "2.7"], r"--epochs takes a whole number or auto, not '2\.7'$"),
        (["--n-batch", "0.6"], r"--batch-size takes a whole number, not '0\.6'"),
        (["--seed", "1e3"], "--seed takes a whole number, not '1e3'"),
        (["--patience", "auto"], "--patience takes a whole number, not 'auto'$"),
        (["--lr", "1e-3x"], "--learning-rate takes a number or auto, not '1e-3x'$"),
        (["--l2", "auto"], "--l2 takes a number, not 'auto'$"),
        (["--epochs", "2,000"], "--epochs 2,000: type 2000, without a comma$"),
        (["--n-batch", "1,500"], "--batch-size 1,500: type 1500, and sweep takes several: onelayer sweep .* 1 500$"),
        (["--test-size", "1,500"], "--test-size 1,500: type 1500$"),
        (["--l2", "0,001"], "--l2 0,001: it takes one number, with a decimal point"),
        (["--decay-factor", "1.5"], r"decay factor 1\.5 is not in \(0, 1\]"),
        (["--init-std", "1e39"], r"init std 1e\+39 is not a number from 0 to 1e6"),
        (["--data", ""], "the path of the data is empty"),
        (["--data", "x" * 300], "no such file or folder"),
        (["--data", "y/" + "x" * 300], "File name too long|no such file"),
        (["--config", "x" * 300], "File name too long"),
        (["--loss", "hinge"], 'Invalid value "hinge" for --loss. Choose from: "softmax", "sigmoid"'),
        (["--learning-rat", "1"], r"unknown option --learning-rat; did you mean --learning-rate\?$"),
        (["--output", "run"], "unknown option --output; the place to write to is --out$"),
        (["--gpu"], "unknown option --gpu; --device cuda trains on a GPU of NVIDIA, --device mps on one of Apple$"),
        (["--gpus", "2"], "unknown option --gpus; torchrun --nproc-per-node N -m onelayer train divides the rows "),
        (["--fp16"], "unknown option --fp16; --precision bfloat16 rounds the factors of products$"),
        (["--fast"], "unknown option --fast; see onelayer train --help$"),
        (["--overwrit"], "unknown option --overwrit; see onelayer train --help$"),
        (["--verbose"], "unknown option --verbose; progress is shown unless you pass --quiet$"),
        (["--early-stopping"], "unknown option --early-stopping; --epochs auto stops when .* --patience is how long"),
        (["--lr_decay", "0.1"], "unknown option --lr_decay; the rate decays by --decay-every EPOCHS and --decay-fact"),
        (["--weight-decay", "5e-4"], "--weight-decay is twice --l2, as the .*; type --l2 0.00025$"),
        (["--wd=0.2", "--l2", "1"], "--wd is twice --l2, as the gradient of .*; type --l2 0.1$"),
        (["--wd"], "--wd is twice --l2, .*; type --l2 HALF$"),
        (["--lr", "0.1", "0.2"], "'0.2' is one word too many; train takes one value of --learning-rate; "),
        (["--lr=0.1", "0.2", "1", "--l2", "3"], "for several, type onelayer sweep --learning-rate 0.1 0.2 1$"),
        (["--lr", "0.1,0.2"], "--learning-rate 0.1,0.2: it takes one number, with a decimal point, and sweep takes se"),
        (["--epochs", "10,20"], r"several: onelayer sweep --epochs 10 20$"),
        (["--config", "missing.toml"], "missing.toml: No such file or directory; --config takes a TOML file"),
        (["--data", "nowhere/at-all"], "nowhere/at-all: no such file or folder"),
        (["--data", "cifar11"], "cifar11: no such file or folder, .* did you mean cifar10"),
        (["--data", "digits", "--protocol", "batch"], "digits has no data_batch_1.*; use the protocol stratified"),
        (["--data", "digits", "--test-size", "2000"], "test size 2000 leaves none of 1797 rows"),
        (["--data", "digits", "--out", "file"], "cannot make the directory file: File exists"),
    ],
)
def test_a_bad_option_is_one_line(run_cli, tmp_path, arguments, words):
    (tmp_path / "file").write_text("")
    assert_one_line(run_cli("train", *arguments), words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sweep", "--seed", "3", "4", "5"], "--seed is the first seed and --seeds their number: --seed 3 --seeds 3$"),
        (["sweep", "--lr", "0.1,0.2"], "separate numbers by spaces: --learning-rate 0.1 0.2; decimals have a point$"),
        (["sweep", "--batch-size", "10,20"], "separate numbers by spaces: --batch-size 10 20; "),
        (["sweep", "--epochs", "1,000", "2,000"], "--epochs 1,000: type 1000, without a comma$"),
        (["sweep", "--epochs", "1,500"], "separate numbers by spaces: --epochs 1 500; decimals have a point$"),
        (["sweep", "--lr", "auto", "1e-3x"], "--learning-rate takes a number or auto, not '1e-3x'$"),
        (["report", "run", "-o", "p.pdf"], r"p.pdf: report writes HTML; .* in \.html; for a PDF, print the report"),
        (["report", "run", "-o", "page"], r"page: report writes HTML; choose a name that ends in \.html$"),
        (["study", "grid", "--seeds", "3,4"], "--seeds 3,4: it takes one number, with a decimal point$"),
        (["resume", "run", "--lambda", "1"], "unknown option --lambda; see onelayer resume --help$"),
        (["resume", "run", "--early-stopping"], "unknown option --early-stopping; see onelayer resume --help$"),
        (["check", "--features", "20"], r"unknown option --features; did you mean --n-features\?$"),
        (["evaluate", "run", "--device", "cuda"], "unknown option --device; it runs on the CPU, and only train, "),
        (["study", "grid", "--gpu"], "unknown option --gpu; it runs on the CPU, and only train, "),
        (["evaluate", "run", "--nodes", "2"], "unknown option --nodes; torchrun --nproc-per-node N -m onelayer train"),
        (["resume", "run", "--force"], "unknown option --force; see onelayer resume --help$"),
    ],
)
def test_a_word_of_other_programs_leads_to_ours(run_cli, words, said):
    assert_one_line(run_cli(*words), said)


def test_every_hint_names_options_that_are_there():
    for hint in set(HINTS.values()) - {_PROCESSES}:  # it names an option of torchrun
        for option in re.findall(r"--[a-z0-9-]+", hint):
            assert takes("train", option), hint
    assert not [
        word
        for word in ("--overwrite", "--eta", "--lam", "--n-batch", "--n-epochs")
        if any(word in hint for hint in HINTS.values())
    ]
    for alias, option in ALIASES.items():
        assert takes("train", option)
        assert not takes("train", alias)
        assert alias not in HINTS


def test_an_unknown_command_is_one_line(run_cli):
    assert_one_line(run_cli("trian"), r"unknown command trian; did you mean train\?$")
    assert_one_line(run_cli("frobnicate"), "unknown command frobnicate; see onelayer --help$")


def test_a_folder_without_cifar_is_one_line(run_cli, tmp_path):
    assert_one_line(run_cli("train", "--data", tmp_path), "holds no data that onelayer reads")
    assert_one_line(run_cli("data", tmp_path), "holds no data that onelayer reads")


@pytest.mark.parametrize("command", ["resume", "evaluate", "figures", "predict", "explain", "export"])
def test_commands_that_need_a_run_say_so(run_cli, tmp_path, command):
    more = {"predict": ["image.png"], "explain": ["image.png"], "export": ["model.onnx"]}.get(command, [])
    assert_one_line(run_cli(command, "missing", *more), "missing: no such run directory")
    for name in ("runs/digits-1", "runs/photos"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "checkpoint.safetensors").write_text("not read")
    for typed, meant in {
        "digits-1": "digits-1",
        "runs/foto": "",
        "photo": "photos",
        "runs/digit-1": "digits-1",
    }.items():
        hint = f"did you mean runs/{meant}\\?$" if meant else "onelayer runs lists those in runs/$"
        assert_one_line(run_cli(command, typed, *more), f"{typed}: no such run directory; {hint}")
    (tmp_path / "other").mkdir()
    assert_one_line(run_cli(command, "other", *more), "other is not a run of onelayer")


def test_file_names_are_taken_as_they_are(run_cli, trained, tmp_path):
    for name in ("[cat].png", "--my_pic.png", "--eta", '["a", "b"].png', "ü ☃.png"):
        Image.new("RGB", (32, 32), "blue").save(tmp_path / name, format="PNG")
        code, out, err = run_cli("predict", trained, "--json", "--", name)
        assert (code, err) == (0, ""), name
        assert json.loads(out)[0]["image"] == name
    (tmp_path / "empty").mkdir()
    assert_one_line(run_cli("predict", trained, "empty"), "empty: holds no images")
    assert_one_line(run_cli("explain", trained, "."), r"\.: a folder, not an image")
    assert_one_line(run_cli("predict", trained, "x" * 300), "File name too long")
    assert_one_line(run_cli("resume", "x" * 300), "File name too long")


def test_words_that_no_command_takes_are_one_line(run_cli):
    assert run_cli("evaluate", "a", "b", "c")[2] == "onelayer: 'b' is one word too many; see onelayer evaluate --help\n"
