"""Models by name: published weights, downloaded and exported once, then taken from a cache folder."""

import os
from pathlib import Path

from video_module.errors import InputError
from video_module.files import FORMAT_VERSION
from video_module.models.registry import MODELS

# Each clip takes a large network seconds in torch, and the user is waiting for a first answer.
_NUM_PROOF_CLIPS = 4


def cache_dir() -> Path:
    """Where exported models are kept: video_module in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "video_module"


def find_model(model: str) -> Path:
    """Find the file that `--model` means: a path, or the name of a model with published weights.

    Published weights are downloaded and exported on first use. That needs torch and, unless the weights are in torch's
    own cache, the network. Raises InputError otherwise, naming the file to fetch and where to put it.
    """
    if Path(model).is_file():
        return Path(model)
    with_weights = ", ".join(name for name, other in MODELS.items() if other.weights)
    if model not in MODELS:
        maker = {".onnx": "; create it with convert_model.py", ".pth": "; create it with train_model.py"}.get(
            Path(model).suffix
        )
        raise InputError(f"--model {model}: no such file{maker or f', and none of the models by name: {with_weights}'}")
    spec = MODELS[model]
    if not spec.weights:
        raise InputError(
            f"--model {model}: no weights of it are published with torchvision; give a file, or one of {with_weights}"
        )
    path = cache_dir() / f"{model}_{spec.default_weights}_v{FORMAT_VERSION}.onnx"
    if not path.is_file():
        _export_published(model, path)
    return path


def _export_published(model: str, path: Path) -> None:
    try:
        from video_module.engine.checkpoint import published_checkpoint
        from video_module.inference import export
    except ImportError as error:
        raise InputError(
            f"--model {model}: making {path} needs {error.name}, once; run this where it is installed, or copy the file"
        ) from None
    from video_module.config import ExportGates
    from video_module.files import check_output
    from video_module.inference.verification import load_clips

    check_output(path)
    checkpoint = published_checkpoint(model, None)
    size_mb = sum(weight.numel() * weight.element_size() for weight in checkpoint.weights.values()) / 1e6
    print(f"exporting {model} ({size_mb:.0f} MB) to {path}, once; this takes a minute or two", flush=True)
    clips = load_clips(checkpoint.clip, _NUM_PROOF_CLIPS, class_names=checkpoint.class_names, folder=None)
    stem = path.with_suffix("")
    [report] = export.export_files(checkpoint, stem, clips=clips, gates=ExportGates())
    if report.failure:
        raise InputError(f"{path}: {report.failure}; not kept")
