"""test_model.py under a real torchrun of two processes on the CPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import test_model
from tests.inference.test_predictor import read_scores
from video_module.engine.distributed import Group, join_group, own_device
from video_module.errors import InputError
from video_module.inference.predictor import load_predictor

ROOT = Path(__file__).parents[2]


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "test_model.py"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


@pytest.fixture
def odd_test_dir(drawn_data, tmp_path) -> Path:
    """Five videos: the first process gets one more than the second."""
    folder = tmp_path / "odd"
    for video in sorted((drawn_data / "test").rglob("*.avi"))[:5]:
        (folder / video.parent.name).mkdir(parents=True)
        shutil.copy(video, folder / video.parent.name)
    return folder


def test_two_processes_score_as_one(exported, odd_test_dir, tmp_path):
    flags = ["--test_dir", odd_test_dir, "--checkpoint", exported, "--num_workers", "0", "--batch_size", "5"]
    test_model.main([*map(str, flags), "--output_dir", str(tmp_path / "one")])
    result = torchrun(*flags, "--output_dir", tmp_path / "two")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("5 videos; ") == 1  # the first process alone prints
    one, two = (tmp_path / name / "nano_predictions.csv" for name in ("one", "two"))
    assert list(read_scores(one)) == list(read_scores(two))
    for video, scores in read_scores(one).items():
        np.testing.assert_allclose(read_scores(two)[video], scores, rtol=0, atol=1.1e-5)
    figures = [json.loads((tmp_path / name / "nano_results.json").read_text()) for name in ("one", "two")]
    assert figures[1].pop("command").startswith("torchrun --nproc_per_node 2 test_model.py --test_dir")
    assert figures[0]["video_top1"] == figures[1]["video_top1"]
    assert figures[0]["num_clips"] == figures[1]["num_clips"]


def test_one_process_that_fails_ends_the_job_in_one_line(exported, odd_test_dir, drawn_data, tmp_path):
    """Its video breaks after both have begun; the other waits for its scores."""
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


def test_without_torchrun_one_process_does_it_all():
    with join_group("cpu") as group:
        assert group.share([1, 2, 3]) == group.gather([1, 2, 3]) == [1, 2, 3]
        assert group.is_first


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_shares_hold_everything_once(world_size):
    shares = [Group(rank=rank, world_size=world_size, device="cpu").share(range(5)) for rank in range(world_size)]
    assert sorted(item for share in shares for item in share) == list(range(5))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_each_process_takes_its_own_gpu():
    assert [own_device(device, 3) for device in ("auto", "cuda", "cpu")] == ["auto:3", "cuda:3", "cpu"]
    with pytest.raises(InputError, match="each process takes its own GPU; use auto, cuda or cpu"):
        own_device("cuda:0", 1)
    with pytest.raises(InputError, match="not a device"):
        own_device("gpu", 1)


def test_the_device_of_a_process_is_one_that_predictors_take(trained, exported):
    """Without CUDA, auto is the CPU in each process."""
    if torch.cuda.is_available():
        pytest.skip("has CUDA")
    for model in (trained, exported):
        assert "cpu" in load_predictor(model, device="auto:1").provider.lower()
    with pytest.raises(InputError, match="no CUDA"):
        load_predictor(trained, device="cuda:1")
