"""Deaths of decoding processes, in runs of train_model.py that are real ones."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.data.test_dataset import training_clips
from video_module.data import dataset, records
from video_module.errors import InputError

ROOT = Path(__file__).parents[2]
FLAGS = ["--model_type", "swin3d_nano", "--weights", "none", "--num_workers", "2", "--num_epochs", "3"]
FLAGS += ["--clip_len", "4", "--img_size", "32", "--batch_size", "4", "--effective_batch", "4", "--precision", "fp32"]
# Kills a worker when a function is called the second time, in the last process of the job.
KILLS = """
import importlib, multiprocessing, sys
from video_module import cli
module, name, *arguments = sys.argv[1:]
cli.prepare_process(has_workers=True)
import torch
import train_model
from video_module.engine import distributed
torch.set_num_threads(1)
owner = importlib.import_module(module)
*path, name = name.split(".")
for part in path:
    owner = getattr(owner, part)
function, calls = getattr(owner, name), []
def kills(self, *arguments, **settings):
    calls.append(1)
    if len(calls) == 2 and self.group.rank == self.group.world_size - 1:
        multiprocessing.active_children()[-1].kill()
    return function(self, *arguments, **settings)
setattr(owner, name, kills)
cli.run(lambda: train_model.main(arguments))
"""
PLACES = [("video_module.engine.step", "Trainer.train_step"), ("video_module.engine.loop", "validate")]
needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="processes there are not ended by signals")


def run_to_its_end(command: list[str]) -> tuple[int, str]:
    """Exit code and stderr of a command that leaves no process behind; both within ten seconds of its error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    _, errors = process.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return process.returncode, errors.decode()
        time.sleep(0.1)
    raise AssertionError("processes are left")


@needs_signals
@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_run_whose_worker_is_killed_ends_in_one_line(place, drawn_data, tmp_path):
    flags = ["--data_dir", str(drawn_data), "--save_path", str(tmp_path / "nano.pth"), *FLAGS]
    code, errors = run_to_its_end([sys.executable, "-c", KILLS, *place, *flags])
    assert code == 1
    assert len(re.findall(r"error: a decoding process died .*--num_workers", errors)) == 1, errors
    assert "Traceback" not in errors


@needs_signals
@pytest.mark.slow
def test_a_job_of_torchrun_ends_with_a_worker_of_one_process(drawn_data, tmp_path):
    script = tmp_path / "kills.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}){KILLS}")
    flags = ["--data_dir", str(drawn_data), "--save_path", str(tmp_path / "nano.pth"), *FLAGS]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    code, errors = run_to_its_end([*torchrun, str(script), *PLACES[0], *flags])
    assert code == 1
    assert len(re.findall(r"^error: a decoding process died .*--num_workers", errors, re.MULTILINE)) == 1, errors


def can_mount() -> bool:
    return sys.platform == "linux" and not subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif("not can_mount()", reason="needs the right to mount")
def test_shared_memory_that_is_full_is_named(drawn_data, tmp_path):
    flags = ["--data_dir", str(drawn_data), "--save_path", str(tmp_path / "nano.pth"), *FLAGS, "--img_size", "64"]
    shell = 'mount -t tmpfs -o size=128k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", shell, "sh", sys.executable, "train_model.py", *flags]
    code, errors = run_to_its_end(command)
    assert code == 1
    [line] = re.findall(r"error: .*", errors)
    assert "/dev/shm" in line and "--shm-size" in line and "--num_workers 0" in line
    assert "Traceback" not in errors


@needs_signals
@pytest.mark.slow
def test_a_start_that_fails_midway_leaves_no_worker(drawn_data, tmp_path):
    flags = ["--data_dir", str(drawn_data), "--save_path", str(tmp_path / "nano.pth"), *FLAGS, "--num_workers", "20"]
    command = ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", sys.executable, "train_model.py", *flags]
    code, errors = run_to_its_end(command)
    assert code == 1
    assert "error: too many open files with --num_workers 20; lower it, or raise the limit (ulimit -n 4096)" in errors


def fails_in_torch(frames, *, seed, may_flip):
    raise RuntimeError("a defect of ours")


def test_a_defect_in_a_worker_keeps_its_traceback(drawn_data):
    """It was told as a death of the worker, without the place that a developer looks for."""
    clips = training_clips(drawn_data, records.load_videos(drawn_data / "train", num_workers=1))
    clips.augment.finish = fails_in_torch
    loader, _ = dataset.training_loader(clips, effective_batch=8, num_workers=1, pin_memory=False)
    with pytest.raises(RuntimeError, match=r"(?s)fails_in_torch.*a defect of ours") as error:
        list(loader)
    assert not isinstance(error.value, InputError)
