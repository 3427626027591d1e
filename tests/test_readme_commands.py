"""README's commands: those in blocks are run one after the other in a folder laid out as README says, and those within
the text are read by the parsers of their scripts. What is not run is named here, with the reason."""

import importlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import README, ROOT
from video_module.data.drawing import draw_dataset

# commands that begin so are not run
NOT_RUN = {
    "python3 -m venv": "the shell's environment",
    "pip install": "installs; .ci/run does it",
    "python run_model.py --video_path clip.mp4 --model swin3d_t": "fetches published weights",
    "python convert_model.py --model_type swin3d_b_w16": "a published file; tests/test_convert_model.py runs it",
    "python run_model.py --model swin_base": "the same",
    "python split_data.py --input_dir hmdb51_org.rar": "HMDB51 has to be fetched",
    "python train_model.py --data_dir hmdb51_folds": "the same",
    "srun": "needs a cluster",
    "curl": "talks to a server; tests/web/test_api.py runs it",
}
# what would take hours on a CPU, or wants a weights file from the network
SMALLER = {
    "train_model.py --data_dir data --model_type swin3d_t": "train_model.py --data_dir data --model_type swin3d_nano "
    "--num_epochs 2",
    "--nproc_per_node 8": "--nproc_per_node 2",
    "--model swin3d_b.onnx": "--model doors.onnx",
}


def block_commands() -> list[str]:
    """Of README's bash blocks, in their order, continued lines joined."""
    text = "\n".join(re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def inline_commands() -> list[str]:
    """`python script.py …` and `torchrun … script.py …` within README's text and tables."""
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    codes = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    return [code for code in codes if re.match(r"(python|torchrun) ", code) and ".py" in code and "-c " not in code]


def is_run(command: str) -> bool:
    return not any(command.startswith(beginning) for beginning in NOT_RUN)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with what README's commands name: classes of videos, a set with groups, a new video, an archive."""
    folder = tmp_path_factory.mktemp("readme")
    draw_dataset(folder / "videos", num_sources=6, clips_per_source=1, seed=5, num_workers=1)
    rows = ["path,source"]
    for path in sorted((folder / "videos").rglob("*.avi")):
        if path.parent.name in ("jump", "wave"):
            copy = folder / "fight_surv" / path.relative_to(folder / "videos")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
            film = path.name.split(f"_{path.parent.name}_")[0]
            rows.append(f"{copy.relative_to(folder / 'fight_surv').as_posix()},{film}")
    (folder / "fight_surv" / "groups.csv").write_text("\n".join(rows))
    (folder / "archive").mkdir()
    for path in sorted((folder / "videos" / "sit").glob("*.avi"))[:2]:
        shutil.copy(path, folder / "archive")
    shutil.copy(path, folder / "new.mp4")  # the name in README; OpenCV goes by the content
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """A command of README with this interpreter and this checkout's scripts, in `folder`."""
    for what, smaller in SMALLER.items():
        command = command.replace(what, smaller)
    words = [
        str(ROOT / word) if re.fullmatch(r"[a-z_]+\.py", word) and (ROOT / word).is_file() else word
        for word in shlex.split(command)
    ]
    program = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}[words[0]]
    return subprocess.run(
        [sys.executable, *program, *words[1:]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        | {"TQDM_DISABLE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
    )


@pytest.mark.slow
def test_the_blocks_run_as_they_stand(folder):
    commands = [command for command in block_commands() if is_run(command)]
    commands.sort(key=lambda command: command.startswith("torchrun"))  # shown early, but takes a trained model
    assert len(commands) >= 11
    for command in commands:
        if "run_gradio.py" in command:
            serve(command, folder)
            continue
        result = shell(command, folder)
        # two epochs leave classes so close that int8 may be refused, as it should then be
        refused = "convert_model.py" in command and "_int8.onnx: agrees with torch on" in result.stderr
        assert result.returncode == 0 or refused, f"{command}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr
        assert "Warning" not in result.stderr, f"{command}\n{result.stderr}"
    for name in ("doors.pth", "doors.onnx", "report.html", "annotated.mp4", "fight.pth", "label_distribution.png"):
        assert (folder / name).is_file(), name


def serve(command: str, folder: Path) -> None:
    """Start the page and see it answer."""
    _, script, *arguments = shlex.split(command)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / script), *arguments, "--port", port],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving at"):
                return
        pytest.fail(f"{command}\n{''.join(lines)}")
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.parametrize("command", inline_commands())
def test_the_commands_in_the_text_are_understood(command):
    """Every flag is one that the script has; … stands for more."""
    words = [word for word in shlex.split(command) if word not in ("…", "...")]
    script = next(position for position, word in enumerate(words) if word.endswith(".py"))
    module = importlib.import_module(Path(words[script]).stem)
    arguments = words[script + 1 :]
    if "…" in command or len(arguments) == 1:  # a part of a command: what it lacks is beside the point
        required = {"run_model": ["--video_path", "v", "--model", "m"], "run_gradio": ["--model", "m"]}
        required |= {
            "test_model": ["--test_dir", "d", "--checkpoint", "c"],
            "split_data": ["--input_dir", "v", "--splits_dir", "s"],
        }
        extra = required.get(module.__name__, [])
        arguments = [*(word for word in extra if word not in arguments), *arguments] if extra else arguments
    module.parse_args(arguments)


def test_what_is_not_run_stands_in_readme():
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for command in block_commands()), beginning
