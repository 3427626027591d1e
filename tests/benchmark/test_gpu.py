"""Tests of the GPU benchmarks, run on the CPU."""

import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from video_module.benchmark import gpu
from video_module.benchmark.__main__ import main
from video_module.benchmark.gpu_checks import syncs
from video_module.benchmark.gpu_kernels import AttentionAsItWas
from video_module.benchmark.gpu_setup import Setup
from video_module.errors import InputError
from video_module.models.swin3d import WindowAttention3d

ROOT = Path(__file__).parents[2]
HIDDEN = ("albumentations", "av", "gradio", "rarfile")


def run_gpu(*flags: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "video_module.benchmark", "gpu", "--device", "cpu", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **(environment or {})}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def json_rows(printed: str) -> list[dict]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def ends(rows: list[dict]) -> dict[str, dict]:
    """Return the last row of each part."""
    return {row["part"]: row for row in rows if "what" not in row}


@pytest.fixture
def packages_hidden(tmp_path) -> dict[str, str]:
    """Return environment variables that prevent importing the HIDDEN packages, also in child processes."""
    for name in HIDDEN:
        text = f"raise ModuleNotFoundError('No module named {name}', name={name!r})\n"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    return {"PYTHONPATH": str(tmp_path)}


def test_two_parts(tmp_path, capsys):
    path = tmp_path / "rows.json"
    main(["gpu", "--device", "cpu", "--parts", "syncs", "kernels", "--save_json", str(path)])
    printed = capsys.readouterr().out
    rows = json_rows(printed)
    assert json.loads(path.read_text())["rows"] == rows
    assert list(ends(rows)) == ["kernels", "syncs"]  # the more important part comes first
    assert all(row["took_s"] > 0 for row in ends(rows).values())
    exact = [row for row in rows if row.get("what", "").endswith("against fp32")]
    assert {row["what"][:7] for row in exact} == {"stage 1", "stage 2", "stage 3"}
    assert all(row["ok"] for row in exact)
    table = printed.partition("  part ")[2].splitlines()[1 : 1 + len(rows)]
    assert [line.split()[0] for line in table] == [row["part"] for row in rows]


@pytest.mark.slow
def test_all_parts_within_a_minute():
    begin = time.monotonic()
    result = run_gpu()
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - begin < 240  # four times the usual time, since other tests may run in parallel
    rows = json_rows(result.stdout)
    assert list(ends(rows)) == list(gpu.PARTS)
    assert all("took_s" in row for row in ends(rows).values())
    named = {row["what"]: row for row in rows if "what" in row}
    assert named["killed after step 3 and resumed"]["equal"]
    assert named["swin3d_nano: auto"]["clips_at_once"] == 4
    assert named["swin3d_nano: eager, 2 at once"]["clips_per_s"] > 0
    assert len([row for row in rows if row["part"] == "profile" and "rank" in row]) == 25
    reads = [row for row in rows if "from files" in row.get("what", "")]
    assert ["compiled" in row["what"] for row in reads] == [False, True]
    for read in reads:
        assert read["of_in_memory"] == pytest.approx(read["clips_per_s"] / read["in_memory_per_s"], rel=1e-3)


@pytest.mark.slow
def test_parts_whose_packages_are_missing_are_skipped(packages_hidden):
    result = run_gpu(environment=packages_hidden)
    assert result.returncode == 0, result.stderr
    rows = json_rows(result.stdout)
    skipped = {part: row["skipped"] for part, row in ends(rows).items() if "skipped" in row}
    assert skipped == dict.fromkeys(("loader", "resume"), "albumentations is not installed")
    assert list(ends(rows)) == list(gpu.PARTS)


def test_a_missing_package_skips_a_part(packages_hidden):
    result = run_gpu("--parts", "resume", "loader", "versions", environment=packages_hidden)
    assert result.returncode == 0, result.stderr
    assert [next(iter(row.keys() - {"part"})) for row in ends(json_rows(result.stdout)).values()] == [
        "took_s",
        "skipped",
        "skipped",
    ]


@pytest.mark.slow
def test_parts_run_after_one_fails_or_times_out(monkeypatch, tmp_path, capsys):
    """After each failure, the next part starts in a new process."""
    parts = {
        "versions": "raise RuntimeError('first\\nlast')",
        "kernels": "time.sleep(60)",
        "accuracy": "os.kill(os.getpid(), 9)",
        "speed": "setup.emit('all is well', ok=True)",
    }
    text = "import os, time\n" + "".join(f"def {name}(setup): {body}\n" for name, body in parts.items())
    (tmp_path / "fake_parts.py").write_text(text)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'video_module.benchmark.gpu' in sys.orig_argv:\n"
        "    import fake_parts\n"
        "    for name in ('speed', 'checks', 'kernels'):\n"
        "        sys.modules[f'video_module.benchmark.gpu_{name}'] = fake_parts\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gpu, "PARTS", {**dict.fromkeys(parts, 15), "kernels": 1})
    with pytest.raises(SystemExit) as error:
        main(["gpu", "--device", "cpu", "--parts", *parts, "--time_limit_s", "80"])
    assert error.value.code == 1
    rows = json_rows(capsys.readouterr().out)
    assert ends(rows)["versions"]["error"] == "RuntimeError: last"
    assert 0 < ends(rows)["kernels"]["timed_out_after_s"] < 3
    assert ends(rows)["accuracy"]["error"] == "the process ended with code -9"
    assert "took_s" in ends(rows)["speed"]
    assert {"part": "speed", "what": "all is well", "ok": True} in rows


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_device_is_reported_once(capfd):
    with pytest.raises(InputError, match="no part can run"):
        main(["gpu", "--device", "cuda"])
    assert capfd.readouterr().err == "error: --device cuda: torch found no CUDA GPU; use --device cpu\n"


def test_parts_are_skipped_when_no_time_is_left(capsys):
    main(["gpu", "--device", "cpu", "--parts", "versions", "syncs", "--time_limit_s", "0.000001"])
    rows = json_rows(capsys.readouterr().out)
    assert [row["skipped"] for row in rows] == ["no time left"] * 2


@pytest.mark.filterwarnings("ignore:called a synchronizing")  # from the warm-up step
def test_synchronisations_are_reported_by_line(monkeypatch, capsys):
    clip_grad_norm = torch.nn.utils.clip_grad_norm_

    def wait_and_clip(*args):
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        return clip_grad_norm(*args)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", wait_and_clip)
    syncs(Setup(part="syncs", device="cpu", model_type=[], data_dir=None))
    [row] = json_rows(capsys.readouterr().out)
    [(line, count)] = row["lines"].items()  # once in each of two steps
    name, _, number = line.partition(":")
    assert "clip_grad_norm_" in (ROOT / "video_module" / "engine" / name).read_text().splitlines()[int(number) - 1]
    assert count == 2


@pytest.mark.parametrize("shift", [(0, 0, 0), (2, 2, 2)])
def test_previous_attention_gives_the_same_result(shift):
    torch.manual_seed(0)
    attention = WindowAttention3d(32, [4, 4, 4], list(shift), 2)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(2, 4, 8, 8, 32)
    expected = attention(x)
    for other in (AttentionAsItWas, ShiftedWindowAttention3d):
        attention.__class__ = other
        torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_training_does_not_import_albumentations(packages_hidden):
    """Training on clips in memory and evaluation must work without it."""
    modules = [f"video_module.{name}" for name in ("engine.loop", "engine.evaluation", "benchmark.train")]
    command = [sys.executable, "-c", f"import {', '.join(modules)}"]
    result = subprocess.run(command, cwd=ROOT, env={**os.environ, **packages_hidden}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
