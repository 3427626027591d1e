"""Build networks that take uint8 clips and return logits, and load their weights."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_module.config import ClipConfig
from video_module.errors import InputError
from video_module.models import layouts
from video_module.models.registry import MODELS, NO_WEIGHTS, ModelSpec, get_spec

# What training can do if published weights cannot be downloaded.
_WITHOUT_PUBLISHED = (
    "\n  or use another trained network: --weights X.pth"
    "\n  or train from scratch: --model_type swin3d_nano --weights none, without --probe"
)


class Recognizer(nn.Module):
    """A network that normalises clips on its own device and passes them to the backbone.

    Takes RGB clips (N, T, H, W, 3), uint8 or float in 0..255, and returns float logits (N, num_classes).
    """

    def __init__(self, backbone: nn.Module, *, name: str, clip: ClipConfig):
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.clip = clip
        # Scaled to 0..255. Not in the state dict, because every file stores the ClipConfig beside the weights.
        self.register_buffer("mean", torch.tensor(clip.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(clip.std) * 255, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        assert clips.ndim == 5 and clips.shape[-1] == 3, f"clips are (N, T, H, W, 3), got {tuple(clips.shape)}"
        # NTHWC -> NCTHW. This is a view, so nothing is copied, and already in the channels_last_3d layout. Exported
        # graphs copy here, since onnxruntime is several times slower at normalising with the channels last.
        clips = clips.permute(0, 4, 1, 2, 3).float()
        return self.backbone((clips - self.mean[:, None, None, None]) / self.std[:, None, None, None])

    @property
    def head(self) -> nn.Module:
        return self.backbone.get_submodule(get_spec(self.name).head)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def drop_before_head(self, share: float) -> None:
        """Apply dropout with probability `share` to the last layer's inputs in training."""
        if share:
            self.head.register_forward_pre_hook(
                lambda module, inputs: (F.dropout(inputs[0], share, training=module.training),)
            )

    def recompute_blocks(self) -> None:
        """Save memory in training by keeping only each block's input and recomputing the rest in the backward pass.

        Raises InputError if the network has no blocks that support this.
        """
        blocks = [module for module in self.backbone.modules() if hasattr(module, "recomputed")]
        if not blocks:
            raise InputError(f"--checkpoint_activations: not supported by {self.name}; leave it out")
        for block in blocks:
            block.recomputed = True

    @property
    def compiles_in_parts(self) -> bool:
        return hasattr(self.backbone, "compile_for_training")

    def compile_for_training(self) -> None:
        """Compile the backbone at its first pass, in parts if it defines them, else as a whole."""
        # The normalisation of the input is not compiled. It would be compiled twice, for uint8 and for float clips.
        if self.compiles_in_parts:
            self.backbone.compile_for_training()
        else:
            self.backbone.compile(dynamic=False)


def build_model(
    name: str,
    *,
    num_classes: int,
    weights: str = NO_WEIGHTS,
    clip: ClipConfig | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
    class_names: Sequence[str] = (),
    keeps_head: bool = False,
) -> Recognizer:
    """Build a model and load its weights.

    `weights` is `none`, the name of published weights, or the path of a weights file. With `none`, everything is
    initialised from `seed`. If the weights are for other classes, the last layer is initialised from `seed`, unless
    `keeps_head` forbids it. Classes are compared by number, and by name if both the file and `class_names` give names.
    Raises InputError if the weights are not available or do not fit.
    """
    assert not class_names or len(class_names) == num_classes, (num_classes, class_names)
    spec = get_spec(name)
    clip = clip or spec.clip
    if clip.shape != spec.clip.shape:
        _check_size(spec, clip)
    torch.manual_seed(seed)
    model = Recognizer(spec.build(num_classes=num_classes, clip=clip, drop_path=drop_path), name=name, clip=clip)
    if weights != NO_WEIGHTS:
        if weights in spec.weights:
            content = _published_weights(name, weights, can_train=not keeps_head)
        else:
            content = _weights_file(name, Path(weights))
        theirs = content.get("class_names")
        _load_backbone(
            model,
            layouts.find_weights(content, origin=weights),
            origin=weights,
            keeps_head=keeps_head,
            has_others=bool(theirs and class_names) and list(theirs) != list(class_names),
        )
    return model


def _check_size(spec: ModelSpec, clip: ClipConfig) -> None:
    """Raise InputError if the network does not support clips of this size, without computing anything."""
    # Tensors on the meta device have shapes but no values, so a whole network takes milliseconds.
    try:
        with torch.device("meta"), torch.no_grad():
            spec.build(num_classes=2, clip=clip).eval()(torch.zeros(1, 3, *clip.shape[:3]))
    except (RuntimeError, ValueError) as error:
        size, own = ("x".join(map(str, shape[:3])) for shape in (clip.shape, spec.clip.shape))
        raise InputError(
            f"{spec.name} does not support clips of {size} ({str(error).splitlines()[0]}); its own size is {own}; "
            "change --clip_len or --img_size"
        ) from None


def published_class_names(name: str, weights: str) -> list[str]:
    """Return the class names of published weights, in the order of their logits."""
    spec = _published_spec(name, weights)
    # The files of pytorchvideo contain no class names. Their classes are in torchvision's order for Kinetics-400, which
    # is alphabetical.
    if spec.weights_url:
        name, weights = "swin3d_t", "KINETICS400_V1"
    return list(_torchvision_weights(name, weights).meta["categories"])


def _published_spec(name: str, weights: str) -> ModelSpec:
    spec = get_spec(name)
    if weights not in spec.weights:
        raise _unknown_weights(name, weights)
    return spec


def _unknown_weights(name: str, weights: str | Path) -> InputError:
    known = ", ".join((*get_spec(name).weights, NO_WEIGHTS))
    return InputError(f"--weights {weights}: neither a file nor known weights for {name} ({known})")


def _torchvision_weights(name: str, weights: str):
    from torchvision.models import get_model_weights

    return get_model_weights(name)[weights]


def _published_weights(name: str, weights: str, *, can_train: bool) -> dict:
    """Load published weights, downloading them into torch's cache if they are missing.

    If `can_train`, errors suggest alternatives to the download.
    """
    url = _published_spec(name, weights).weights_url or _torchvision_weights(name, weights).url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if file.is_file():
        _check_published_name(file)
        return load_torch_file(file)
    hash_prefix = _published_hash(file.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    print(f"downloading {url} to {file}" + ("" if hash_prefix else "; no checksum to verify it"))
    try:
        torch.hub.download_url_to_file(url, str(file), hash_prefix=hash_prefix)
        return load_torch_file(file)
    except OSError as error:  # includes URLError of urllib
        reason = getattr(error, "reason", error)
        hint = _WITHOUT_PUBLISHED if can_train else ""
        raise InputError(
            f"cannot download {weights} of {name} ({reason})\n  download {url} elsewhere, and save it as {file}{hint}"
        ) from None
    except RuntimeError as error:  # the hash does not match
        raise InputError(f"download of {url} is damaged ({error}); try again") from None
    except InputError as error:
        # Without a hash, damage only shows when the file is read. Delete it, or the next run would use it again.
        file.unlink()
        raise InputError(f"download of {url} is damaged ({error}); try again") from None


def _published_hash(file_name: str) -> str | None:
    """Return the digits of the SHA-256 at the end of a torchvision file's name, or None for other files."""
    from torchvision.models import get_model_weights, list_models

    urls = (weights.url for model in list_models() for weights in get_model_weights(model))
    is_published = any(url.rpartition("/")[2] == file_name for url in urls)
    return Path(file_name).stem.rpartition("-")[2] if is_published else None


def _check_published_name(file: Path) -> None:
    """Raise InputError if a file is named like torchvision's weights but has different content."""
    hash_prefix = _published_hash(file.name)
    if hash_prefix is None:
        return
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(hash_prefix):
        raise InputError(
            f"{file}: differs from the weights that torchvision publishes under this name: their SHA-256 begins with "
            f"{hash_prefix}, this file's with {digest[: len(hash_prefix)]}; delete it to download them again, or "
            "rename it and pass it as --weights FILE"
        )


def _weights_file(name: str, file: Path) -> dict:
    if not file.is_file():
        raise _unknown_weights(name, file)
    _check_published_name(file)
    return load_torch_file(file)


def load_torch_file(file: Path) -> dict:
    """Load a dict of tensors and plain values with torch.load(), without ever running code from the file.

    Raises InputError naming the file if that fails.
    """
    import pickle

    if not file.is_file():
        raise InputError(f"{file}: no such file")
    with open(file, "rb") as start:
        # An ONNX file begins with field 1, its format version; PyTorch files are archives or pickles.
        if file.suffix.lower() == ".onnx" or start.read(1) == b"\x08":
            raise InputError(f"{file}: this is an ONNX file; expected a .pth of train_model.py")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        hint = ""
        if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            # Such a file contains more than weights, such as a whole module or another project's training state.
            hint = (
                f' ({code[1]} here); if you trust it, extract its weights: python -c "import torch; f = '
                f"torch.load({file.as_posix()!r}, 'cpu', weights_only=False); "  # a backslash would be an escape
                "torch.save(f.state_dict() if hasattr(f, 'state_dict') else f.get('state_dict', f), 'plain.pth')\""
            )
        raise InputError(
            f"{file}: not a plain PyTorch file: damaged, or contains code, which is never run{hint}"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: not a readable PyTorch file ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: contains a {type(content).__name__}; expected a dict of weights")
    return content


def _load_backbone(
    model: Recognizer, weights: dict[str, Tensor], *, origin: str, keeps_head: bool, has_others: bool
) -> None:
    """Load weights of any known layout.

    The last layer keeps its new values if the weights are for other classes, judging by their number or `has_others`.
    Unused tensors are printed. Raises InputError listing the tensors that are missing or have a different shape.
    """
    own, in_file = model.backbone.state_dict(), weights
    layout, weights = layouts.match_layout(in_file, own)
    head = get_spec(model.name).head + "."
    fits = [key for key in layouts.fitting(weights, own) if not (has_others and key.startswith(head))]
    if misfits := _misfits(model.name, weights, own):
        raise InputError(f"{origin}: does not fit {model.name}{_explain_misfits(model, misfits, weights, in_file)}")
    if keeps_head and (lost := [key for key in own if key.startswith(head) and key not in fits]):
        num_classes, weight = len(own[head + "bias"]), weights.get(head + "weight")
        if weight is not None and len(weight) != num_classes:
            raise InputError(f"{origin}: its last layer has {len(weight)} classes, but {num_classes} were given")
        raise InputError(
            f"{origin}: contains no last layer ({', '.join(lost)}); train one with train_model.py --weights"
        )
    if layout is not layouts.LAYOUTS[0]:
        print(f"{origin}: read as {layout.name}")
    if surplus := [key for key in weights if key not in own]:
        print(f"{origin}: {len(surplus)} unused tensors: {layouts.outline(surplus, weights)}")
    if any(key.startswith(head) and key not in fits for key in own):
        print(f"{origin}: new last layer for {own[head + 'weight'].shape[0]} classes")
    model.backbone.load_state_dict({**own, **{key: weights[key] for key in fits}})


def _misfits(name: str, weights: dict[str, Tensor], own: dict[str, Tensor]) -> list[str]:
    """Return the tensors of the network `name` that are missing or have a different shape, except in the last layer."""
    fits, head = layouts.fitting(weights, own), get_spec(name).head + "."
    # Batch norm's counter may be missing. Files from before PyTorch 0.4.1 lack it, and no network here reads it.
    needed = [key for key in own if not key.startswith(head) and not key.endswith("num_batches_tracked")]
    return [key for key in needed if key not in fits]


def _explain_misfits(
    model: Recognizer, misfits: list[str], weights: dict[str, Tensor], in_file: dict[str, Tensor]
) -> str:
    """Say which other model the file is for, or what is wrong with it."""
    if others := _models_of(in_file):
        return f"; it is for {' or '.join(others)}: use --model_type {others[0]}"
    own = model.backbone.state_dict()
    if not any(key in own for key in weights):
        return f": it has none of the {len(own)} tensors; the file contains {layouts.outline(in_file, in_file)}"
    missing = [key for key in misfits if key not in weights]
    resized = [f"{key} {_size(weights[key])} for {_size(own[key])}" for key in misfits if key in weights]
    parts = [f"missing {layouts.outline(missing, own)}"] * bool(missing)
    parts += [f"different shape {', '.join(resized)}"] * bool(resized)
    return f": {len(misfits)} of {len(own)} tensors do not match: {'; '.join(parts)}"


def _models_of(weights: dict[str, Tensor]) -> list[str]:
    """Return the models that a file's weights fit, for each model's own clip size."""
    names = []
    for name, spec in MODELS.items():
        with torch.device("meta"):
            own = spec.build(num_classes=2).state_dict()
        if not _misfits(name, layouts.match_layout(weights, own)[1], own):
            names.append(name)
    return names


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "()"
