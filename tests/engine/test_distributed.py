"""test_model.py and train_model.py under a real torchrun with two and three processes on the CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

import run_model
import test_model
import train_model
from tests.engine.test_state import FLAGS, assert_same_run
from tests.engine.test_step import small_config
from tests.inference.test_predictor import read_scores
from video_module import machine
from video_module.config import TrainConfig
from video_module.data.records import load_videos
from video_module.devices import own_device, own_threads
from video_module.engine import distributed, evaluation, state
from video_module.engine.checkpoint import load_checkpoint
from video_module.engine.distributed import Group, join_group
from video_module.engine.step import Trainer
from video_module.errors import InputError
from video_module.inference import predictor
from video_module.inference.predictor import load_predictor
from video_module.models import recognizer
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec
from video_module.scores import at_temperature

ROOT = Path(__file__).parents[2]
ends_by_signal = pytest.mark.skipif(sys.platform == "win32", reason="processes there are not ended by signals")


def torchrun(
    *arguments: str | Path, script: str = "test_model.py", num_processes: int = 2
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    return subprocess.run(
        [*command, script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture
def odd_test_dir(drawn_data, tmp_path) -> Path:
    """Five videos, so that the first process gets one more than the second."""
    folder = tmp_path / "odd"
    for video in sorted((drawn_data / "test").rglob("*.avi"))[:5]:
        (folder / video.parent.name).mkdir(parents=True)
        shutil.copy(video, folder / video.parent.name)
    return folder


@pytest.mark.parametrize("num_processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes_score_as_one(num_processes, exported, odd_test_dir, tmp_path):
    flags = ["--test_dir", odd_test_dir, "--checkpoint", exported, "--num_workers", "0", "--batch_size", "5"]
    test_model.main([*map(str, flags), "--output_dir", str(tmp_path / "one")])
    result = torchrun(*flags, "--output_dir", tmp_path / "two", num_processes=num_processes)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("5 videos; ") == 1  # only the first process prints
    one, two = (tmp_path / name / "nano_onnx_predictions.csv" for name in ("one", "two"))
    assert list(read_scores(one)) == list(read_scores(two))
    for video, scores in read_scores(one).items():
        np.testing.assert_allclose(read_scores(two)[video], scores, rtol=0, atol=1.1e-5)
    figures = [json.loads((tmp_path / name / "nano_onnx_results.json").read_text()) for name in ("one", "two")]
    assert figures[1].pop("command").startswith(f"torchrun --nproc_per_node {num_processes} test_model.py --test_dir")
    assert figures[0]["video_top1"] == figures[1]["video_top1"]
    assert figures[0]["num_clips"] == figures[1]["num_clips"]


@pytest.mark.slow
def test_one_process_that_fails_ends_the_job_in_one_line(exported, odd_test_dir, drawn_data, tmp_path):
    """The video breaks after both processes have started, while the other waits for the scores."""
    folder = tmp_path / "test"
    shutil.copytree(odd_test_dir, folder)
    broken = sorted(folder.rglob("*.avi"))[1]
    record = [
        {"path": video.relative_to(tmp_path).as_posix(), "label": video.parent.name, "split": "test", "source": "s"}
        | {"num_frames": 999 if video == broken else 20, "fps": 25.0}
        for video in sorted(folder.rglob("*.avi"))
    ]
    split = {"videos": record, "digest": "d", "protocol": "grouped", "fold": None}
    (tmp_path / "split.json").write_text(json.dumps(split))
    out = tmp_path / "out"
    result = torchrun("--test_dir", folder, "--checkpoint", exported, "--num_workers", "0", "--output_dir", out)
    assert result.returncode != 0
    errors = re.findall(r"^error: .*", result.stderr, flags=re.MULTILINE)
    assert len(errors) == 1, result.stderr
    assert errors[0].startswith(f"error: {broken}: frame ")
    assert not out.exists()


@pytest.mark.slow
def test_no_video_counts_twice_where_the_shares_are_uneven(exported, drawn_data, tmp_path):
    """21 videos on two processes count as 21 in every figure of testing and training, and are not filled up to 22."""
    clips = sorted((drawn_data / "test").rglob("*.avi"))
    for split in ("train", "val"):
        for number in range(21):
            clip = clips[number % len(clips)]
            target = tmp_path / "data" / split / clip.parent.name / f"{number:02}.avi"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(clip, target)
    out = tmp_path / "out"
    flags = ["--checkpoint", exported, "--num_workers", "0", "--output_dir", out, "--num_crops", "1"]
    result = torchrun("--test_dir", tmp_path / "data" / "val", *flags)
    assert result.returncode == 0, result.stderr
    figures = json.loads((out / "nano_onnx_results.json").read_text())
    assert figures["num_videos"] == 21
    assert sum(row["support"] for row in figures["per_class"].values()) == 21
    assert len(read_scores(out / "nano_onnx_predictions.csv")) == 21
    _, *rows = (out / "nano_onnx_confusion.csv").read_text().splitlines()
    assert sum(int(cell) for row in rows for cell in row.split(",")[1:]) == 21
    assert figures["video_top1"] * 21 == pytest.approx(round(figures["video_top1"] * 21))

    save_path = tmp_path / "run" / "nano.pth"
    flags = ["--data_dir", tmp_path / "data", "--save_path", save_path, *PLAIN, "--num_epochs", "1"]
    result = torchrun(*flags, script="train_model.py")
    assert result.returncode == 0, result.stderr
    [row] = zip(*(logs := json.loads(save_path.with_name("nano_logs.json").read_text())).values(), strict=True)
    row = dict(zip(logs, row, strict=True))
    assert row["clips_per_s"] * row["duration_s"] == pytest.approx(21)
    for name in ("train_top1", "val_top1"):
        assert row[name] * 21 == pytest.approx(round(row[name] * 21))


# Settings without randomness, because each process draws its own dropout and mixes its own clips.
PLAIN = (
    *("--model_type", "swin3d_nano", "--num_workers", "0", "--device", "cpu", "--num_epochs", "3", "--augment", "none"),
    *("--effective_batch", "11", "--batch_size", "4", "--mixup", "0", "--cutmix", "0", "--ema_decay", "0.9"),
    *("--head_dropout", "0", "--drop_path", "0"),
)

# Each of two processes takes two clips per step, one at a time, so that a stop could come between them.
CHANCE = (*FLAGS, "--num_epochs", "3", "--num_workers", "0", "--batch_size", "1")


@pytest.fixture(scope="module")
def alone(drawn_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("alone") / "nano.pth"
    train_model.main(["--data_dir", str(drawn_data), "--save_path", str(path), *PLAIN])
    return path


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [2, 3])
def test_several_processes_learn_as_one(num_processes, alone, drawn_data, tmp_path):
    """24 videos make uneven steps of 11, 11 and 2, and one of three processes gets no clip in the last one."""
    path = tmp_path / "nano.pth"
    flags = ["--data_dir", drawn_data, "--save_path", path, *PLAIN]
    result = torchrun(*flags, script="train_model.py", num_processes=num_processes)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch   3/3") == 1  # only the first process prints and writes
    assert f"{num_processes} processes" in result.stdout
    assert "Warning" not in result.stderr
    one, several = (json.loads(p.with_name("nano_logs.json").read_text()) for p in (alone, path))
    assert several["epoch"] == one["epoch"] == [1, 2, 3]
    np.testing.assert_allclose(several["train_loss"], one["train_loss"], rtol=1e-3)
    np.testing.assert_allclose(several["val_loss"], one["val_loss"], rtol=1e-3)
    assert several["val_top1"] == one["val_top1"]
    weights = [load_checkpoint(p.with_name("nano_last.pth")).weights for p in (alone, path)]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, rtol=0, atol=2e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in alone.parent.iterdir())


@pytest.mark.slow
def test_one_process_that_fails_in_training_ends_all_with_its_message(drawn_data, tmp_path):
    """A video in the share of the second process is broken, while the others wait for its gradients."""
    data = tmp_path / "data"
    shutil.copytree(drawn_data, data)
    for path in sorted((data / "train").rglob("*.avi"))[:3]:
        path.write_bytes(path.read_bytes()[:3000])
    result = torchrun(
        *("--data_dir", data, "--save_path", tmp_path / "nano.pth", *PLAIN), script="train_model.py", num_processes=3
    )
    assert result.returncode != 0
    errors = re.findall(r"^error: .*", result.stderr, flags=re.MULTILINE)
    assert len(errors) == 1, result.stderr
    assert re.search(r"of 24 clips could not be read, more than --max_failed_share 0.01 allows; .*\.avi", errors[0])
    assert not (tmp_path / "nano.pth").exists()


@pytest.mark.slow
def test_batch_norms_of_several_processes_are_validated_as_they_are_kept(drawn_data, tmp_path):
    """Each process sees its own clips, but the logged figure must belong to the single file that is written."""
    path, val_dir = tmp_path / "mc3.pth", drawn_data / "val"
    flags = ["--data_dir", drawn_data, "--save_path", path, "--model_type", "mc3_18", "--weights", "none"]
    flags += ["--clip_len", "4", "--img_size", "32", "--num_epochs", "1", "--effective_batch", "8", "--lr", "1e-4"]
    result = torchrun(*flags, "--num_workers", "0", "--device", "cpu", script="train_model.py")
    assert result.returncode == 0, result.stderr
    [logged] = json.loads((tmp_path / "mc3_logs.json").read_text())["val_loss"]
    views = ["--num_clips", "1", "--num_crops", "1", "--num_workers", "0", "--output_dir", str(tmp_path)]
    test_model.main(["--test_dir", str(val_dir), "--checkpoint", str(path), "--allow_leak", *views])
    scores = read_scores(tmp_path / "mc3_predictions.csv")
    names = sorted(folder.name for folder in val_dir.iterdir())
    # The logged loss is that of the plain softmax, before a temperature is fitted.
    temperature = load_checkpoint(path).temperature
    plain = {video: at_temperature(np.array(values), 1 / temperature) for video, values in scores.items()}
    losses = [-np.log(values[names.index(Path(video).parent.name)]) for video, values in plain.items()]
    assert logged == pytest.approx(np.mean(losses), rel=2e-5)  # 3e-4 without average_statistics()


@pytest.fixture
def gloo() -> Iterator[None]:
    """A real process group that consists of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_process_without_a_clip_gives_its_gradients_and_keeps_its_batch_norms(gloo):
    """This is the second of two processes in a short last step, whose black clip must not change batch norm."""
    clip = get_spec("mc3_18").clip_config(clip_len=4, img_size=32)
    model = build_model("mc3_18", num_classes=4, clip=clip, seed=1)
    group = Group(rank=1, world_size=2, device="cpu")
    trainer = Trainer(model, small_config(), device=torch.device("cpu"), steps_per_epoch=1, group=group)
    trainer.set_mode(0)
    before = {name: value.clone() for name, value in model.named_buffers()}
    trainer.train_step([], total=3.0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in model.parameters())
    clips = torch.randint(0, 256, (2, *clip.shape), dtype=torch.uint8)
    trainer.train_step([(clips, torch.tensor([0, 1]), [])], total=2.0)  # real clips do change the statistics
    assert not any(torch.equal(value, before[name]) for name, value in model.named_buffers() if "running" in name)


@pytest.fixture(scope="module")
def two_unbroken(drawn_data, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("two") / "nano.pth"
    result = torchrun("--data_dir", drawn_data, "--save_path", path, *CHANCE, script="train_model.py")
    assert result.returncode == 0, result.stderr
    return path


FAILS = """
import os, signal, sys
sys.path.insert(0, os.getcwd())
import train_model
from video_module import cli
from video_module.engine.step import Trainer
how, at, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
if how == "apart" and os.environ["RANK"] == "1":  # a machine with a disk of its own
    path = arguments.index("--save_path") + 1
    arguments[path] = arguments[path].replace("nano.pth", "other.pth")
step, steps = Trainer.train_step, []
def fails(self, *arguments, **settings):
    steps.append(1)
    if self.group.rank == 1 and len(steps) == at:
        if how == "raises":
            raise RuntimeError("a device of process 1 is lost")
        os.kill(os.getpid(), getattr(signal, how))
    return step(self, *arguments, **settings)
Trainer.train_step = fails
cli.run(lambda: train_model.main(arguments))
"""


@pytest.mark.slow
@ends_by_signal
@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
def test_several_processes_go_on_within_an_epoch(how, two_unbroken, drawn_data, tmp_path):
    """One of two processes is stopped or killed in the third step of the second epoch, and the job is resumed.

    After the kill, the job is resumed on machines without a shared disk, where the second process cannot see the file
    that the first one saved.
    """
    (tmp_path / "fails.py").write_text(FAILS)
    path = tmp_path / "run" / "nano.pth"
    flags = ["--data_dir", drawn_data, "--save_path", path, *CHANCE]
    ended = torchrun(how, "15", *flags, "--save_every", "1", script=str(tmp_path / "fails.py"))
    assert ended.returncode != 0
    assert ("Signal 9" in ended.stderr) == (how == "SIGKILL")
    if how == "SIGTERM":  # both processes finish the current step
        assert "stopped in epoch 2, after step 3 of 12" in ended.stderr
    if how == "SIGKILL":
        result = torchrun("apart", "-1", *flags, "--resume", script=str(tmp_path / "fails.py"))
    else:
        result = torchrun(*flags, "--resume", script="train_model.py")
    assert result.returncode == 0, result.stderr
    assert "resuming after epoch 1 of 3 and step " in result.stdout
    assert_same_run(two_unbroken, path)
    assert not path.with_name("other_last.pth").exists()


@dataclass(frozen=True, kw_only=True)
class Second(Group):
    """The second of two processes, with the results of the first one's broadcasts in `told`."""

    rank: int = 1
    world_size: int = 2
    device: str = "cpu"
    told: list[Any]

    def broadcast(self, make: Callable[[], Any]) -> Any:
        return self.told.pop(0)


@pytest.mark.parametrize("first_has_it", [True, False])
def test_the_disk_of_the_first_process_decides_where_all_go_on(first_has_it, alone, tmp_path):
    """The second process lacks the file of the first one, or has a file that the first one lacks."""
    last = alone.with_name("nano_last.pth")
    saved = load_checkpoint(last)
    config = TrainConfig(**{k: v for k, v in saved.train_config.items() if k not in ("weights", "class_weights")})
    model = build_model("swin3d_nano", num_classes=len(saved.class_names), seed=5)
    trainer = Trainer(model, config, device=torch.device("cpu"), steps_per_epoch=3)
    trainer.group = Second(told=[saved if first_has_it else None])
    fresh = model.head.weight.detach().clone()
    progress = state.resume(trainer, saved, tmp_path / "nano_last.pth" if first_has_it else last)
    assert (progress.num_epochs if progress else None) == (3 if first_has_it else None)
    assert torch.equal(model.head.weight, fresh) != first_has_it


def test_weights_are_left_out_where_the_first_process_goes_on(alone, drawn_data, monkeypatch):
    """A file of an earlier run in another process must not leave them out: its mean would start from nothing."""
    flags = ["--data_dir", str(drawn_data), "--save_path", str(alone), *PLAIN, "--weights", "published", "--resume"]
    args = train_model.parse_args(flags)
    videos = [load_videos(drawn_data / split, num_workers=1) for split in ("train", "val")]
    asked = []

    def build(*_, weights: str, **settings):
        asked.append(weights)
        raise InputError("asked")

    monkeypatch.setattr(recognizer, "build_model", build)
    for goes_on in (False, True):
        with pytest.raises(InputError, match="asked"):
            train_model.run(args, small_config(), Second(told=[videos, goes_on]), print)
    assert asked == ["published", "none"]


@pytest.mark.slow
def test_a_crash_in_one_process_ends_all(drawn_data, tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    flags = ["--data_dir", drawn_data, "--save_path", tmp_path / "nano.pth", *PLAIN]
    # If the others waited for it, they would do so for half an hour, and torchrun() would time out before.
    result = torchrun("raises", "2", *flags, script=str(tmp_path / "fails.py"))
    assert result.returncode != 0
    assert "a device of process 1 is lost" in result.stderr


def test_without_torchrun_one_process_does_it_all():
    with join_group("cpu") as group:
        assert group.shard([1, 2, 3]) == group.gather([1, 2, 3]) == [1, 2, 3]
        assert group.is_first


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_shards_hold_everything_once(world_size):
    shards = [Group(rank=rank, world_size=world_size, device="cpu").shard(range(5)) for rank in range(world_size)]
    assert sorted(item for shard in shards for item in shard) == list(range(5))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_each_process_takes_its_own_gpu(monkeypatch):
    assert own_device("cuda:1") == "cuda:1"  # without LOCAL_RANK
    assert own_threads(None) is None
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [own_device(device) for device in ("auto", "cuda", "cpu", "openvino")] == [
        "auto:3",
        "cuda:3",
        "cpu",
        "openvino",
    ]
    with pytest.raises(
        InputError, match="--device cuda:1: each of several processes takes its own GPU; use auto, cuda"
    ):
        own_device("cuda:1")
    with pytest.raises(InputError, match="not a device"):
        own_device("cuda:")


@pytest.mark.parametrize("script", [run_model, test_model])
def test_processes_on_one_machine_share_its_cores_and_its_gpus(script, exported, odd_test_dir, tmp_path, monkeypatch):
    """Sharing keeps the networks from waiting for one another. Only the first process checks all videos."""
    given, looked = [], []

    def load(model, *, device: str, num_threads: int | None, precision: str = "fp32"):
        given.append((device, num_threads))
        return load_predictor(model, num_threads=num_threads)

    split = evaluation.load_test_split(odd_test_dir, load_predictor(exported).class_names, num_workers=0)
    monkeypatch.setattr(evaluation, "load_test_split", lambda *_, **settings: looked.append(1))
    monkeypatch.setattr(Second, "gather", lambda self, shard: None)
    monkeypatch.setattr(distributed, "join_group", lambda device: nullcontext(Second(told=[split])))
    monkeypatch.setattr(predictor, "load_predictor", load)
    monkeypatch.setattr(machine, "available_cores", lambda: 8)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    flags = ["--checkpoint", exported, "--test_dir", odd_test_dir, "--num_workers", "0", "--output_dir", tmp_path]
    if script is run_model:
        flags = ["--model", exported, "--video_path", odd_test_dir, "--save_json", tmp_path / "json"]
    script.main([*map(str, flags), "--device", "auto"])
    assert given == [("auto:1" if script is run_model else "cpu", 4)]  # "cpu" is the device of Second
    assert not looked
    assert own_threads(3) == 3


@pytest.mark.parametrize(
    ("group", "launcher"),
    [
        (Group(device="cpu"), "python"),
        (Group(device="cpu", world_size=8), "torchrun --nproc_per_node 8"),
        (Group(device="cpu", world_size=32, num_machines=4), "torchrun --nnodes 4 --nproc_per_node 8"),
    ],
)
def test_a_record_says_how_the_processes_were_started(group, launcher):
    assert group.launcher == launcher


def test_the_device_of_a_process_is_one_that_predictors_take(trained, exported):
    """Without CUDA, auto is the CPU in each process."""
    if torch.cuda.is_available():
        pytest.skip("has CUDA")
    for model in (trained, exported):
        assert load_predictor(model, device="auto:1").device == "cpu"
    with pytest.raises(InputError, match="no CUDA"):
        load_predictor(trained, device="cuda:1")
