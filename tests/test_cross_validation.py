"""`train_model.py --fold all`: each fold trained and tested as by itself, and all of them together."""

import contextlib
import gc
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import split_data
import test_model
import train_model
from video_module.data import records
from video_module.engine import memory
from video_module.engine.checkpoint import load_checkpoint
from video_module.errors import InputError, Interrupted
from video_module.models.recognizer import Recognizer

ROOT = Path(__file__).parents[1]
FAST = ["--model_type", "swin3d_nano", "--num_epochs", "1", "--num_workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(drawn_clips, tmp_path_factory) -> Path:
    """Two folds of 36 clips."""
    folder = tmp_path_factory.mktemp("folds")
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(folder), "--num_folds", "2"])
    return folder


def command(data: Path, save_path: Path, *flags: str) -> list[str]:
    return ["--data_dir", str(data), "--save_path", str(save_path), *FAST, *flags]


@pytest.fixture(scope="module")
def all_folds(data, tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run over all folds, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train_model.main(command(data, folder / "x.pth", "--fold", "all"))
    return folder, printed.getvalue()


def test_each_fold_leaves_its_files_and_all_of_them_a_row(all_folds, data):
    folder, printed = all_folds
    assert printed.count("says little") == 3 and "cross-validate" not in printed
    for fold in (1, 2):
        split = json.loads((data / f"fold{fold}" / "split.json").read_text())
        results = json.loads((folder / f"x_fold{fold}_results.json").read_text())
        assert load_checkpoint(folder / f"x_fold{fold}.pth").split_digest == split["digest"] == results["split_digest"]
        assert (results["fold"], results["num_folds"]) == (fold, 2)
        assert results["folds_digest"] == split["folds_digest"]
        assert results["num_videos"] == split["counts"]["test"]
        for end in ("_last.pth", "_logs.json", "_curves.png", "_predictions.csv", "_confusion.png"):
            assert (folder / f"x_fold{fold}{end}").is_file(), end
        assert printed.index(str(data / f"fold{fold}")) < printed.index(f"x_fold{fold}_last.pth")
    together = json.loads((folder / "x_folds.json").read_text())
    assert together["pooled"]["num_videos"] == 36
    assert together["folds"] == [1, 2]
    splits = [json.loads((data / f"fold{fold}" / "split.json").read_text()) for fold in (1, 2)]
    assert together["training"]["num_train_videos"] == [split["counts"]["train"] for split in splits]
    assert together["training"]["num_val_videos"] == [split["counts"]["val"] for split in splits]
    assert together["training"]["settings"]["num_epochs"] == 1
    assert (together["warnings"], together["leaks"]) == ([], ["none", "none"])
    assert "pooled" in printed
    written = [folder / f"x_folds{end}" for end in (".json", "_confusion.csv", "_confusion.png")]
    assert printed.endswith("wrote\n" + "".join(f"  {path}\n" for path in written))
    assert all(path.is_file() for path in written)
    assert not list(folder.glob(".*"))


def test_the_row_is_that_of_test_model(all_folds, capsys):
    folder, printed = all_folds
    test_model.main(["--results", *(str(folder / f"x_fold{fold}_results.json") for fold in (1, 2))])
    assert capsys.readouterr().out in printed


def test_a_fold_after_another_is_what_it_is_by_itself(all_folds, data, tmp_path):
    """Whatever the first left in the process: random numbers, settings of torch."""
    train_model.main(command(data / "fold2", tmp_path / "alone.pth"))
    alone, second = load_checkpoint(tmp_path / "alone.pth"), load_checkpoint(all_folds[0] / "x_fold2.pth")
    assert all(torch.equal(value, second.weights[name]) for name, value in alone.weights.items())
    test_model.main(
        ["--test_dir", str(data / "fold2" / "test"), "--checkpoint", str(tmp_path / "alone.pth"), "--device", "cpu"]
    )
    assert (tmp_path / "alone_predictions.csv").read_bytes() == (all_folds[0] / "x_fold2_predictions.csv").read_bytes()


def test_one_fold_alone(data, tmp_path, all_folds, capsys):
    """As the tasks of a cluster take one each."""
    train_model.main(command(data, tmp_path / "x.pth", "--fold", "2"))
    assert "pooled" not in capsys.readouterr().out
    assert not (tmp_path / "x_fold1.pth").exists()
    assert not (tmp_path / "x_folds.json").exists()
    assert (tmp_path / "x_fold2_predictions.csv").read_bytes() == (
        all_folds[0] / "x_fold2_predictions.csv"
    ).read_bytes()


@pytest.fixture
def again(all_folds, tmp_path) -> Path:
    shutil.copytree(all_folds[0], tmp_path / "run")
    return tmp_path / "run"


def test_a_resumed_run_does_what_is_not_done(again, data, all_folds, monkeypatch, capsys):
    (again / "x_fold2_results.json").unlink()
    tested = []
    evaluate = test_model.evaluate
    monkeypatch.setattr(
        test_model, "evaluate", lambda args, *rest: (tested.append(args.checkpoint), evaluate(args, *rest))
    )
    train_model.main(command(data, again / "x.pth", "--fold", "all", "--resume"))
    assert tested == [again / "x_fold2.pth"]
    assert f"already tested: {again / 'x_fold1_results.json'}" in capsys.readouterr().out
    # another checkpoint, another test
    shutil.copy(again / "x_fold2.pth", again / "x_fold1.pth")
    with pytest.raises(InputError, match="trained on another fold"):
        train_model.main(command(data, again / "x.pth", "--fold", "1", "--resume"))
    assert tested[-1] == again / "x_fold1.pth"


def test_results_of_an_earlier_version_are_made_again(again, data):
    """They lack what a summary tells of the training."""
    path = again / "x_fold1_results.json"
    assert test_model.find_earlier_results(again / "x_fold1.pth", data / "fold1" / "test") == path
    figures = json.loads(path.read_text())
    del figures["training"]
    path.write_text(json.dumps(figures))
    assert test_model.find_earlier_results(again / "x_fold1.pth", data / "fold1" / "test") is None


def test_no_fold_keeps_the_network_of_another(again, data, monkeypatch):
    left = []

    def forget() -> None:
        forget_run()
        left.append(sum(type(thing) is Recognizer for thing in gc.get_objects()))

    forget_run = memory.forget_run
    monkeypatch.setattr(memory, "forget_run", forget)
    gc.collect()
    before = sum(type(thing) is Recognizer for thing in gc.get_objects())
    train_model.main(command(data, again / "x.pth", "--fold", "all"))
    assert left == [before, before]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a signal cannot be sent there")
def test_interrupted_it_goes_on_to_the_same_end(data, all_folds, tmp_path):
    """Stopped in the second fold: the first is not trained again, and nothing else differs."""
    flags = command(data, tmp_path / "x.pth", "--fold", "all")
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-u", "train_model.py", *flags],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert any(b"fold2\n" in line for line in process.stdout)  # reads until the second begins
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert b"Traceback" not in err
    assert not (tmp_path / "x_folds.json").exists()
    done_at = (tmp_path / "x_fold1.pth").stat().st_mtime_ns
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train_model.main([*flags, "--resume"])
    assert "already tested" in printed.getvalue()
    assert (tmp_path / "x_fold1.pth").stat().st_mtime_ns == done_at
    for fold in (1, 2):
        name = f"x_fold{fold}_predictions.csv"
        assert (tmp_path / name).read_bytes() == (all_folds[0] / name).read_bytes()


@pytest.mark.slow
def test_probes_share_the_features(data, trained, tmp_path, capsys):
    flags = command(data, tmp_path / "p.pth", "--fold", "all", "--probe", "--weights", str(trained))
    flags = [flag for flag in flags if flag not in ("--num_epochs", "1")]
    train_model.main(flags)
    printed = capsys.readouterr().out
    cache = tmp_path / "p_features.npz"
    assert printed.count("exporting the network to ONNX") == 2
    assert f"of 18 videos in {cache}" in printed
    assert [path.name for path in tmp_path.glob("*_features.npz")] == ["p_features.npz"]
    assert json.loads((tmp_path / "p_folds.json").read_text())["pooled"]["num_videos"] == 36
    train_model.main(flags)
    printed = capsys.readouterr().out
    assert printed.count(f"features: found 18 of 18 videos in {cache}") == 2
    assert printed.count("already tested") == 2


@pytest.mark.slow
def test_several_processes_go_through_all_folds(data, all_folds, tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "train_model.py"]
        + command(data, tmp_path / "x.pth", "--fold", "all"),
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert process.returncode == 0, process.stderr
    together = json.loads((tmp_path / "x_folds.json").read_text())
    assert together["pooled"]["num_videos"] == 36
    assert process.stdout.count("36 videos") <= 1
    assert process.stdout.count("; 2 processes\n") == 2  # of the tests


def change(folder: Path, **content) -> None:
    path = folder / "split.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | content))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (
            lambda data: shutil.rmtree(data / "fold1"),
            "no folders fold1, fold2, …; create them with split_data.py --num_folds 5",
        ),
        (lambda data: (data / "fold1").rename(data / "fold3"), "fold1: missing, although .*fold2"),
        (lambda data: (data / "fold2" / "split.json").unlink(), r"fold2: not a split, because it has no split.json"),
        (lambda data: change(data / "fold2", folds_digest="other"), "fold2: not from the same split as .*fold1"),
        (lambda data: change(data / "fold2", fold=1), "fold2: not from the same split as .*fold1"),
        (lambda data: shutil.rmtree(data / "fold2" / "test"), "test: no such folder; it is written by split_data.py"),
        (lambda data: next((data / "fold2").glob("test/*/*.avi")).unlink(), "listed in .*split.json but missing"),
        (lambda data: [change(data / f"fold{n}", num_folds=3) for n in (1, 2)], "has only 2 of 3 folds; rerun"),
    ],
)
def test_what_is_no_set_of_folds_is_refused_at_once(data, tmp_path, monkeypatch, break_it, reason):
    shutil.copytree(data, tmp_path / "data")
    break_it(tmp_path / "data")
    monkeypatch.setattr(train_model, "run", lambda *_: pytest.fail("hours of training"))
    with pytest.raises(InputError, match=reason):
        train_model.main(command(tmp_path / "data", tmp_path / "x.pth", "--fold", "all"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--fold", "3"], "--fold 3: .* has folds 1, 2; pass one of them, or all"),
        (["--fold", "all", "--val_dir", "v"], "--val_dir cannot be combined with --fold; leave out --fold"),
        (["--fold", "all", "--preview", "p.png"], "--preview cannot be combined with --fold"),
        ([], "contains folds; pass one of them, such as .*fold1; or use train_model.py --fold all"),
    ],
)
def test_flags_that_do_not_fit(data, tmp_path, flags, reason):
    with pytest.raises(InputError, match=reason):
        train_model.main(command(data, tmp_path / "x.pth", *flags))


@pytest.mark.parametrize(
    "command",
    ["calc_label_distribution --data_dir {} --save_to {}.json", "split_data --audit {}", "split_data --input_dir {}"],
)
def test_folds_are_not_taken_for_classes(data, command):
    """They were: each of them as a class with all videos."""
    script, *flags = command.replace("{}", str(data)).split()
    with pytest.raises(InputError, match=r"contains folds; pass one of them, such as .*fold1$"):
        importlib.import_module(script).main(flags)


def test_an_interrupted_test_says_how_to_go_on(again, data, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    (again / "x_fold2_results.json").unlink()
    monkeypatch.setattr(test_model, "evaluate", interrupt)
    with pytest.raises(Interrupted, match=r"stopped while testing .*x_fold2\.pth; use --resume to continue") as stop:
        train_model.main(command(data, again / "x.pth", "--fold", "all", "--resume"))
    assert stop.value.exit_code == 130


def test_folds_of_the_official_protocols_are_folds_too(data, tmp_path, capsys):
    """Whose split.json says nothing of how many there are; that one is missing is told before hours of training."""
    assert records.find_folds(data) and "missing" not in capsys.readouterr().out
    shutil.copytree(data, tmp_path / "data")
    for fold in (1, 2):
        change(tmp_path / "data" / f"fold{fold}", protocol="hmdb51", num_folds=None, folds_digest=None)
    assert [folder.name for folder in records.find_folds(tmp_path / "data")] == ["fold1", "fold2"]
    assert (
        capsys.readouterr().out == "note: hmdb51 has 3 folds, of which 2 are here; published numbers are means of 3\n"
    )
    with pytest.raises(InputError, match=r"no folders fold1, fold2, …; create them with split_data\.py --fold all"):
        records.find_folds(tmp_path / "data" / "fold1")


def test_outputs_of_the_last_fold_are_checked_before_the_first_is_trained(data, tmp_path, monkeypatch):
    (tmp_path / "x_fold2.pth").mkdir()
    monkeypatch.setattr(train_model, "run", lambda *_: pytest.fail("hours of training"))
    with pytest.raises(InputError, match=r"x_fold2\.pth: is a directory"):
        train_model.main(command(data, tmp_path / "x.pth", "--fold", "all"))
