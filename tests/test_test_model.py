"""Which tests of which models are refused: every way to train against every way to test, for both kinds of files."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import split_data
import test_model
from video_module.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from video_module.engine.distributed import join_group
from video_module.engine.evaluation import load_test_split
from video_module.engine.training_data import load_training_data
from video_module.errors import InputError
from video_module.inference.predictor import METADATA_KEY, load_predictor

# Ways to come to a training folder and to a test folder.
KINDS = ("names", "groups", "official", "bare")
CLASSES = ("jump", "wave")


@pytest.fixture(scope="module")
def clips(drawn_clips, tmp_path_factory) -> Path:
    """Two classes of six videos each, whose names tell no recording."""
    folder = tmp_path_factory.mktemp("plain") / "clips"
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number, path in enumerate(sorted((drawn_clips / label).iterdir())):
            shutil.copy(path, folder / label / f"{label[0]}{number}.avi")
    return folder


@pytest.fixture(scope="module")
def make_data(clips, tmp_path_factory) -> Callable[[str, str], Path]:
    """make_data(kind, side) puts all videos into the train or the test side of a data folder."""

    def make(kind: str, side: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        out, names = folder / "data", sorted(path.relative_to(clips).as_posix() for path in clips.rglob("*.avi"))
        flags = ["--input_dir", str(clips), "--output_dir", str(out)]
        if kind == "bare":
            shutil.copytree(clips, out / side)
        elif kind == "official":
            (folder / "splits").mkdir()
            for label in CLASSES:
                # A fold must leave something to train on
                sides = ["2 " if side == "test" and "0" not in name else "1 " for name in names]
                lines = [f"{Path(name).name} {sides[n]}" for n, name in enumerate(names) if name.startswith(label)]
                (folder / "splits" / f"{label}_test_split1.txt").write_text("\n".join(lines))
            official = ["--protocol", "hmdb51", "--splits_dir", str(folder / "splits"), "--val_fraction", "0"]
            split_data.main([*flags, *official])
        else:
            if kind == "groups":
                with open(folder / "groups.csv", "w", newline="") as file:
                    rows = [(name, f"{side} film {number % 4}") for number, name in enumerate(names)]
                    csv.writer(file).writerows([("path", "source"), *rows])
                flags += ["--groups", str(folder / "groups.csv")]
            shares = ["0", "0"] if side == "train" else ["0", "0.5"]
            split_data.main([*flags, "--val_fraction", shares[0], "--test_fraction", shares[1]])
        return out

    return make


def record_of(data_dir: Path, clip) -> dict:
    """What a model trained on a folder records of it."""
    with join_group("cpu") as group:
        data = load_training_data(data_dir, train_dir=None, val_dir=None, clip=clip, group=group)
    checkpoint = data.checkpoint(model="swin3d_nano", train_config={})
    return {key: getattr(checkpoint, key) for key in ("split_digest", "train_sources", "train_clips")}


@pytest.fixture(scope="module")
def as_trained_on(trained, exported, tmp_path_factory) -> Callable[[Path, str], Path]:
    """as_trained_on(data_dir, suffix): the trained model's file, as if it came from that folder."""
    checkpoint, network = load_checkpoint(trained), onnx.load(exported)

    def make(data_dir: Path, suffix: str) -> Path:
        record, path = record_of(data_dir, checkpoint.clip), tmp_path_factory.mktemp("model") / f"model{suffix}"
        if suffix == ".pth":
            save_checkpoint(path, Checkpoint(**{**vars(checkpoint), **record}))
        else:
            [entry] = [entry for entry in network.metadata_props if entry.key == METADATA_KEY]
            entry.value = json.dumps(json.loads(entry.value) | record)
            onnx.save(network, path)
        return path

    return make


def check(model: Path, test_dir: Path, *flags: str) -> dict:
    """What test_model.py does before it scores the videos."""
    args = test_model.parse_args(["--test_dir", str(test_dir), "--checkpoint", str(model), *flags])
    predictor = load_predictor(model, device="cpu")
    split = load_test_split(test_dir, predictor.class_names, num_workers=2)
    return test_model.check_overlap(args, predictor, split)["train_overlap"]


@pytest.fixture(scope="module")
def trained_on_all(make_data, as_trained_on) -> dict[tuple[str, str], Path]:
    """Models of each kind of folder, which saw all videos."""
    folders = {kind: make_data(kind, "train") for kind in KINDS}
    return {(kind, suffix): as_trained_on(folders[kind], suffix) for kind in KINDS for suffix in (".pth", ".onnx")}


@pytest.mark.parametrize("tested_on", KINDS)
def test_videos_that_were_trained_on_are_refused(trained_on_all, make_data, tested_on):
    """Whether a split.json is there or not, whatever it takes for a source, and whichever file holds the model."""
    test_dir = make_data(tested_on, "test") / "test"
    for (kind, suffix), model in trained_on_all.items():
        with pytest.raises(InputError, match="in the model's train and val splits") as refused:
            check(model, test_dir)
        assert "add --allow_leak" in str(refused.value), (kind, suffix)
        overlap = check(model, test_dir, "--allow_leak")
        num_videos = len(list(test_dir.rglob("*.avi")))
        assert (overlap["num_clips"], overlap["is_leak"]) == (num_videos, True), (kind, suffix)


@pytest.mark.parametrize("kind", ["names", "groups", "official"])
def test_the_other_side_of_a_split_is_tested(make_data, as_trained_on, kind, capsys):
    data = make_data(kind, "test")
    for suffix in (".pth", ".onnx"):
        overlap = check(as_trained_on(data, suffix), data / "test")
        assert (overlap["num_sources"], overlap["num_clips"], overlap["is_leak"]) == (0, 0, False)


@pytest.mark.parametrize("tested_on", KINDS)
def test_new_videos_are_tested(trained_on_all, make_data, tested_on, tmp_path):
    shutil.copytree(make_data(tested_on, "test"), tmp_path / "data")
    test_dir = tmp_path / "data" / "test"
    for path in list(test_dir.rglob("*.avi")):
        path.rename(path.with_name(f"new {path.name}"))
    if (file := tmp_path / "data" / "split.json").is_file():
        record = json.loads(file.read_text())
        for video in record["videos"]:
            above, _, name = video["path"].rpartition("/")
            video |= {"path": f"{above}/new {name}", "source": f"new {video['source']}"}
        file.write_text(json.dumps(record | {"digest": "another"}))
    for key, model in trained_on_all.items():
        overlap = check(model, test_dir)
        assert (overlap["num_sources"], overlap["num_clips"], overlap["is_leak"]) == (0, 0, False), key


def test_files_of_one_name_in_two_folders_of_a_class_are_two_videos_of_a_split(clips, as_trained_on, tmp_path):
    """Many cameras number their recordings from 1."""
    names = []
    for label in CLASSES:
        for number, path in enumerate(sorted((clips / label).iterdir())):
            names.append(f"{label}/camera {number % 3}/{number // 3}.avi")
            (tmp_path / "in" / names[-1]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "in" / names[-1])
    rows = "".join(f"{name},{name.split('/')[1]}\n" for name in names)
    (tmp_path / "groups.csv").write_text(f"path,source\n{rows}")
    flags = ["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "data")]
    shares = ["--val_fraction", "0", "--test_fraction", "0.3"]
    split_data.main([*flags, *shares, "--groups", str(tmp_path / "groups.csv")])
    model = as_trained_on(tmp_path / "data", ".pth")
    assert check(model, tmp_path / "data" / "test")["num_clips"] == 0
    with pytest.raises(InputError, match="in the model's train and val splits"):
        check(model, tmp_path / "data" / "train")


def test_unknown_recordings_are_said_to_be_unknown(trained_on_all, make_data, capsys):
    check(trained_on_all["groups", ".pth"], make_data("bare", "test") / "test", "--allow_leak")
    assert "the recordings of these videos are unknown" in capsys.readouterr().out
    check(trained_on_all["groups", ".pth"], make_data("groups", "test") / "test", "--allow_leak")
    assert "unknown" not in capsys.readouterr().out


def test_an_epoch_chosen_by_the_test_side_is_a_leak(make_data, trained, tmp_path):
    """By `train_model.py --val_dir data/test`, within one split."""
    data, checkpoint = make_data("official", "test"), load_checkpoint(trained)
    with join_group("cpu") as group:
        found = load_training_data(data, train_dir=None, val_dir=data / "test", clip=checkpoint.clip, group=group)
    record = found.checkpoint(model="swin3d_nano", train_config={})
    changed = {key: getattr(record, key) for key in ("split_digest", "train_sources", "train_clips")}
    save_checkpoint(tmp_path / "model.pth", Checkpoint(**{**vars(checkpoint), **changed}))
    with pytest.raises(InputError, match="the model was trained or validated on"):
        check(tmp_path / "model.pth", data / "test")
