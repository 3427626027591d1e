import subprocess
import sys
from pathlib import Path

import pytest

from video_module.engine import checkpoint
from video_module.errors import InputError
from video_module.inference import published
from video_module.inference.predictor import load_predictor

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_paths_of_files_are_returned_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").touch()
    assert published.find_model("model.onnx") == Path("model.onnx")
    Path("swin3d_t").touch()
    assert published.find_model("swin3d_t") == Path("swin3d_t")  # an existing file takes precedence


@pytest.mark.slow
def test_a_published_model_is_exported_once(trained, monkeypatch, capsys):
    asked = []

    def published_checkpoint(model, weights):
        asked.append(model)
        return checkpoint.load_checkpoint(trained)

    monkeypatch.setattr(checkpoint, "published_checkpoint", published_checkpoint)
    path = published.find_model("swin3d_t")
    assert path == published.cache_dir() / "swin3d_t_KINETICS400_V1_v2.onnx"
    assert load_predictor(path).model == "swin3d_nano"  # the checkpoint used instead of a download
    assert "MB) to" in capsys.readouterr().out
    assert published.find_model("swin3d_t") == path
    assert asked == ["swin3d_t"]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_failed_download_names_the_url_and_the_destination(tmp_path, monkeypatch):
    import torch

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(
        InputError,
        match=r"(?s)cannot download .*no network.*download https://.*/swin3d_t-.*\.pth elsewhere, and save it",
    ):
        published.find_model("swin3d_t")


def test_missing_torch_is_an_error():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from video_module import cli\nfrom video_module.inference.published import find_model\n"
        "cli.run(lambda: find_model('swin3d_t'))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: --model swin3d_t: creating ")
    assert "requires torch; install it" in line


def test_models_without_published_weights_are_refused():
    with pytest.raises(InputError, match=r"c3d: torchvision publishes no weights for it.*swin3d_t"):
        published.find_model("c3d")
