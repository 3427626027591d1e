"""Tests of the command line of all scripts: help, bad input and imports."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from video_module import __version__, cli

ROOT = Path(__file__).parents[1]
SCRIPTS = (
    "split_data",
    "calc_label_distribution",
    "train_model",
    "test_model",
    "convert_model",
    "run_model",
    "run_gradio",
)


def shell(*arguments: str | Path, code: str | None = None) -> subprocess.CompletedProcess:
    """Run `python script.py …` or `python -c code …` in the project's root."""
    command = [sys.executable, "-c", code] if code else [sys.executable]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, *map(str, arguments)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


HELP = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    heavy = {"albumentations", "cv2", "gradio", "matplotlib", "onnx", "onnxruntime", "torch", "torchvision"}
    print("imported:", *sorted(heavy & set(sys.modules)))
    sys.exit(end.code)
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_imports_no_heavy_packages(script):
    """They would delay --help by up to several seconds."""
    result = shell(f"{script}.py", "--help", code=HELP)
    assert result.returncode == 0
    assert "default:" in result.stdout
    assert result.stdout.splitlines()[-1] == "imported:"


@pytest.mark.parametrize("name", [*SCRIPTS, "video_module.demo.__main__", "video_module.benchmark.__main__"])
def test_version(name, capsys):
    script = importlib.import_module(name)
    with pytest.raises(SystemExit) as end:
        getattr(script, "parse_args", script.main)(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"video_module {__version__}\n"


@pytest.mark.parametrize("name", ["demo", "benchmark"])
def test_help_of_packages_shows_python_m(name, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"video_module.{name}.__main__").main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m video_module.{name} ")


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_flags_are_usage_errors(script):
    result = shell(f"{script}.py", "--no_such_flag")
    assert result.returncode == 2
    assert re.fullmatch(r"error: .*\(--help shows the flags\)\n", result.stderr)


def test_similar_flags_are_suggested(capsys):
    import train_model

    with pytest.raises(SystemExit, match="2"):
        train_model.parse_args(["--epochs", "3", "--batchsize=8", "--seed", "1"])
    expected = "error: unrecognized arguments: --epochs 3 --batchsize=8; did you mean --num_epochs --batch_size?"
    assert capsys.readouterr().err.startswith(expected)
    with pytest.raises(SystemExit, match="2"):
        train_model.parse_args(["--model_type", "swin_nano"])
    assert capsys.readouterr().err.endswith("; did you mean swin3d_nano? (--help shows the flags)\n")


def test_missing_flags_are_named(capsys):
    import run_model

    with pytest.raises(SystemExit, match="2"):
        run_model.parse_args(["--video_path", "a.mp4"])
    expected = "error: the following arguments are required: --model/--onnx_model_path (--help shows the flags)\n"
    assert capsys.readouterr().err == expected


def test_a_bad_value_gets_no_suggestion(capsys):
    import split_data

    with pytest.raises(SystemExit, match="2"):
        split_data.parse_args(["--val_fraction", "1"])
    expected = "error: argument --val_fraction: must be at least 0 and below 1, got 1.0 (--help shows the flags)\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("name", ["train_model", "calc_label_distribution"])
def test_target_fps_zero_disables_the_models_frame_rate(name, capsys):
    script = importlib.import_module(name)
    assert [script.parse_args(["--target_fps", text]).target_fps for text in ("0", "12.5")] == [0.0, 12.5]
    with pytest.raises(SystemExit, match="2"):
        script.parse_args(["--target_fps", "-1"])
    assert "must be positive, got -1" in capsys.readouterr().err


WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # any import of it fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_run_model_needs_no_torch(exported, drawn_data, tmp_path):
    video = next((drawn_data / "test").rglob("*.avi"))
    out = tmp_path / "out.mp4"
    result = shell("run_model.py", "--video_path", video, "--model", exported, "--save_video", out, code=WITHOUT_TORCH)
    assert result.returncode == 0, result.stderr
    assert out.stat().st_size > 1000


@pytest.fixture
def bad(tmp_path, exported, trained) -> dict[str, Path]:
    """Return files and folders that a user may pass by mistake."""
    files = {name: tmp_path / name for name in ("text.avi", "zero.mp4", "none.onnx", "cut.onnx", "cut.pth", "none")}
    files["text.avi"].write_text("this is no video\n" * 50)
    files["zero.mp4"].touch()
    for name, whole in (("cut.onnx", exported), ("cut.pth", trained)):
        files[name].write_bytes(whole.read_bytes()[:5000])
    files["empty"] = tmp_path / "empty"
    files["empty"].mkdir()
    files["flat"] = tmp_path / "flat"
    files["flat"].mkdir()
    (files["flat"] / "clip.avi").write_text("a video beside no class folder")
    files["one"] = tmp_path / "one"
    (files["one"] / "wave").mkdir(parents=True)
    (files["one"] / "wave" / "text.avi").write_text("text")
    files["onnx"], files["pth"] = exported, trained
    for name, content in (("network.pth", exported), ("weights.onnx", trained)):
        files[name] = tmp_path / name
        files[name].write_bytes(content.read_bytes())
    for name, folders in (("split", ("train", "test")), ("parent", ("clips", "more"))):
        files[name] = tmp_path / name
        for folder in folders:
            for label in ("sit", "wave"):
                (files[name] / folder / label).mkdir(parents=True)
                (files[name] / folder / label / "x.avi").write_text("text")
    files["one.pth"] = tmp_path / "one.pth"
    files["one.pth"].mkdir()
    files["taken"] = tmp_path / "taken"
    for name in (f"{exported.stem}_onnx_results.json", f"{trained.stem}_export.json"):
        (files["taken"] / name).mkdir(parents=True)
    return files


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("split_data.py --input_dir {none} --output_dir {empty}/x", "no such folder"),
        ("split_data.py --input_dir {empty} --output_dir {one}/x", "no class folders"),
        ("split_data.py --input_dir {flat} --output_dir {empty}/x", "no class folders"),
        ("split_data.py --input_dir {one} --output_dir {empty}/x", "at least two classes with videos that decode"),
        (
            "split_data.py --input_dir {one} --output_dir {empty}/x --protocol hmdb51 --splits_dir {empty}",
            "no file named",
        ),
        ("split_data.py --input_dir {one} --output_dir {empty}/x --groups {none}", "no such file"),
        ("split_data.py --annotations {none} --output_dir {empty}/x", "no such file"),
        ("split_data.py --annotations {text.avi} --output_dir {empty}/x", "expected a first line with the columns"),
        (
            "split_data.py --input_dir {one} --output_dir {empty}/x --short_side 9",
            "at least two classes, found ['wave']",
        ),
        ("calc_label_distribution.py --data_dir {empty} --save_to {empty}/x.json", "no class folders"),
        (
            "train_model.py --data_dir {none} --model_type swin3d_nano",
            "train: no such folder; it is written by split_data.py",
        ),
        ("train_model.py --data_dir {one} --model_type swin3d_nano", "contains classes, but is not split yet; run"),
        (
            "calc_label_distribution.py --data_dir {none} --save_to {empty}/x.json",
            "no such folder; expected the output of split_data.py",
        ),
        (
            "test_model.py --test_dir {none}/test --checkpoint {onnx}",
            "test: no such folder; it is written by split_data.py",
        ),
        ("test_model.py --test_dir {one}/test --checkpoint {onnx}", "contains classes, but is not split yet; run"),
        ("train_model.py --data_dir {none} --lr -1", "lr must be positive"),
        ("test_model.py --test_dir {one} --checkpoint {onnx} --output_dir {empty}", "text.avi: not a video"),
        ("test_model.py --test_dir {one} --checkpoint {none.onnx}", "no such file; create it with convert_model.py"),
        ("test_model.py --test_dir {one} --checkpoint {none}.pth", "no such file; create it with train_model.py"),
        ("test_model.py --test_dir {one} --checkpoint {cut.pth}", "cut.pth: not a"),
        ("test_model.py --results {none} {none}", "no such file"),
        ("test_model.py --results {text.avi} {text.avi}", "not a results file"),
        ("test_model.py --compare {none} {text.avi}", "no such file"),
        ("test_model.py --test_dir {one} --checkpoint {onnx} --attention", "has no gradients"),
        ("test_model.py --test_dir {one} --checkpoint {pth} --report {empty}/x.pdf", "expected a name ending in .html"),
        (
            "test_model.py --test_dir {one} --checkpoint {pth} --output_dir {text.avi}",
            "is a file; expected a directory",
        ),
        ("convert_model.py --checkpoint {pth} --output_dir {text.avi}", "is a file; expected a directory"),
        ("convert_model.py --checkpoint {none}.pth", "no such file; create it with train_model.py"),
        ("convert_model.py --checkpoint {onnx}", "this is an ONNX file; expected a .pth of train_model.py"),
        ("convert_model.py --checkpoint {network.pth}", "this is an ONNX file; expected a .pth of train_model.py"),
        ("test_model.py --test_dir {one} --checkpoint {network.pth}", "this is an ONNX file; expected a .pth"),
        (
            "test_model.py --test_dir {one} --checkpoint {weights.onnx}",
            "it seems to be a PyTorch file; export",
        ),
        ("test_model.py --test_dir {split} --checkpoint {onnx}", "holds train and test, not classes; pass"),
        ("train_model.py --train_dir {split} --model_type swin3d_nano", "not classes; pass"),
        ("split_data.py --input_dir {split} --output_dir {empty}/x", "holds train and test, not classes; pass the"),
        (
            "split_data.py --input_dir {parent} --output_dir {empty}/x",
            "contain the same folders sit, wave; if those",
        ),
        (
            "test_model.py --test_dir {parent} --checkpoint {onnx}",
            "clips is not a class of the model, but contains some",
        ),
        ("convert_model.py --describe {cut.onnx}", "cannot be read as an ONNX file"),
        ("run_model.py --video_path {text.avi} --model {onnx}", "not a video"),
        ("run_model.py --video_path {zero.mp4} --model {onnx}", "0 bytes"),
        ("run_model.py --video_path {none}.mp4 --model {onnx}", "no such file"),
        (
            "run_model.py --video_path {none}.mp4 --model swin3d_t",
            "none.mp4: no such file",
        ),
        ("run_model.py --video_path {text.avi} --model {none}.onnx", "create it with convert_model.py"),
        ("run_model.py --video_path {text.avi} --model swin3d", "neither a file nor a model with weights (swin3d_t, "),
        ("run_model.py --video_path {empty} --model {onnx}", "no videos in this folder"),
        ("run_model.py --video_path {text.avi} --model {none.onnx}", "no such file"),
        ("run_model.py --video_path {text.avi} --model {onnx} --save_json {text.avi}", "would be overwritten"),
        ("run_model.py --video_path {text.avi} --model {onnx} --save_video {empty}/x.mkv", "written as .mp4"),
        ("train_model.py --data_dir {none} --save_path {empty}/x.pt", "expected a name ending in .pth"),
        ("calc_label_distribution.py --data_dir {one} --save_to {empty}/x.png", "the PNG is written beside it"),
        ("test_model.py --test_dir {one} --checkpoint {onnx} --device banana", "not a device"),
        ("train_model.py --data_dir {one} --save_path {one}.pth", "one.pth: is a directory; expected a file"),
        ("train_model.py --data_dir {one} --save_path {text.avi}/x.pth", "text.avi is a file, not a folder"),
        ("train_model.py --data_dir {one} --save_path {pth} --weights {pth}", "the input of --weights; choose another"),
        (
            "calc_label_distribution.py --data_dir {one} --save_to {empty}/x.json --examples {empty}/x.png",
            "x.png is also the output of --save_to",
        ),
        (
            "run_model.py --video_path {text.avi} --model {onnx} --save_json {empty}/x --save_jsonl {empty}/x",
            "x is also the output of --save_json",
        ),
        ("run_model.py --video_path {text.avi} --model {onnx} --save_csv {onnx}", "the input of --model; choose"),
        ("split_data.py --audit {one} --groups {text.avi} --save_to {text.avi}", "the input of --groups; choose"),
        ("test_model.py --test_dir {one} --checkpoint {onnx} --output_dir {taken}", "_results.json: is a directory"),
        ("convert_model.py --checkpoint {pth} --output_dir {taken}", "_export.json: is a directory"),
        ("run_gradio.py --model {cut.onnx}", "cannot be read as an ONNX file"),
    ],
)
def test_bad_input_is_an_error_of_one_line(bad, command, reason, monkeypatch, capfd):
    """Runs in this process, which is faster because everything has been imported already."""
    script, arguments = filled_in(command, bad)
    before = sorted(bad["empty"].iterdir())
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: importlib.import_module(script.removesuffix(".py")).main(arguments))
    assert_one_line(f"{capfd.readouterr().err}{end.value}\n", reason)
    assert sorted(bad["empty"].iterdir()) == before  # no partial files


def filled_in(command: str, bad: dict[str, Path]) -> tuple[str, list[str]]:
    """Return the script and its arguments, with {names} replaced by paths."""
    script, *arguments = command.split()
    for name, path in bad.items():
        arguments = [argument.replace(f"{{{name}}}", str(path)) for argument in arguments]
    return script, arguments


def assert_one_line(errors: str, reason: str) -> None:
    lines = [line for line in errors.replace("\r", "\n").splitlines() if line.strip() and "video/s" not in line]
    assert len(lines) == 1, errors
    assert lines[0].startswith("error: ")
    assert reason in lines[0]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("split_data.py --input_dir {one} --output_dir {empty}/x", "at least two classes"),
        ("calc_label_distribution.py --data_dir {empty} --save_to {empty}/x.json", "no class folders"),
        pytest.param(*("train_model.py --data_dir {none} --device cuda", "no CUDA"), marks=pytest.mark.slow),
        pytest.param(
            *("test_model.py --test_dir {one} --checkpoint {onnx} --output_dir {empty}", "text.avi: not a video"),
            marks=pytest.mark.slow,
        ),
        pytest.param(*("convert_model.py --checkpoint {onnx}", "this is an ONNX file"), marks=pytest.mark.slow),
        ("run_model.py --video_path {text.avi} --model {onnx}", "not a video"),
        ("run_gradio.py --model {cut.onnx}", "cannot be read as an ONNX file"),
    ],
)
def test_bad_input_is_an_error_of_one_line_in_a_new_process(bad, command, reason):
    """In a new process, stderr would also show messages of libraries on import and at exit."""
    script, arguments = filled_in(command, bad)
    result = shell(script, *arguments)
    assert result.returncode == 1, result.stderr
    assert_one_line(result.stderr, reason)


def test_run_model_reports_broken_videos_in_a_folder(exported, drawn_data, tmp_path):
    folder = tmp_path / "in" / "[día 1] #2"
    folder.mkdir(parents=True)
    clips = sorted((drawn_data / "test").rglob("*.avi"))[:2]
    for number, clip in enumerate(clips):
        (folder / f"-clip {number}+!.avi").write_bytes(clip.read_bytes())
    (folder / "broken.avi").write_text("text")
    out = tmp_path / "out"
    flags = ["--save_json", out / "json", "--save_csv", out / "csv", "--save_video", out / "video"]
    result = shell("run_model.py", "--video_path", tmp_path / "in", "--model", exported, *flags)
    assert result.returncode == 1
    assert "1 of 3 videos could not be read" in result.stderr
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    names = [f"[día 1] #2/-clip {number}+!" for number in (0, 1)]
    assert written == sorted(
        [
            f"{kind}/{name}{suffix}"
            for name in names
            for kind, suffix in (("csv", ".csv"), ("json", ".json"), ("video", ".mp4"))
        ]
    )
