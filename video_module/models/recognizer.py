"""A network with its input contract: uint8 clips in, logits out."""

from pathlib import Path

import torch
from torch import Tensor, nn

from video_module.config import ClipConfig
from video_module.errors import InputError
from video_module.models.registry import NO_WEIGHTS, get_spec


class Recognizer(nn.Module):
    """Normalises clips on its own device and hands them to the backbone.

    Takes uint8 RGB (N, T, H, W, 3), or float in 0..255 of that shape, and returns float logits (N, num_classes).
    """

    def __init__(self, backbone: nn.Module, *, name: str, clip: ClipConfig):
        super().__init__()
        self.backbone = backbone
        self.name = name
        self.clip = clip
        # of values in 0..255; not in the state dict, since ClipConfig travels beside it
        self.register_buffer("mean", torch.tensor(clip.mean) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(clip.std) * 255, persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        clips = (clips.float() - self.mean) / self.std
        # NTHWC -> NCTHW; a view, and already channels_last_3d
        return self.backbone(clips.permute(0, 4, 1, 2, 3))

    @property
    def head(self) -> nn.Module:
        return self.backbone.get_submodule(get_spec(self.name).head)


def build_model(
    name: str,
    *,
    num_classes: int,
    weights: str = NO_WEIGHTS,
    clip: ClipConfig | None = None,
    drop_path: float = 0.0,
    seed: int = 0,
) -> Recognizer:
    """Build a model and load its weights: `none`, the name of published weights, or a path to a state dict.

    What starts anew is drawn from `seed`: everything, or the last layer where the weights are for other classes.
    Raises InputError if the weights cannot be had, or do not fit.
    """
    spec = get_spec(name)
    torch.manual_seed(seed)
    backbone = spec.build(num_classes=num_classes, drop_path=drop_path)
    model = Recognizer(backbone, name=name, clip=clip or spec.clip)
    if weights != NO_WEIGHTS:
        state = _published_weights(name, weights) if weights in spec.weights else _weights_file(name, Path(weights))
        _load_backbone(model, state, origin=weights)
    return model


def published_class_names(name: str, weights: str) -> list[str]:
    """The classes that published weights tell apart, in the order of their logits."""
    return list(_torchvision_weights(name, weights).meta["categories"])


def _torchvision_weights(name: str, weights: str):
    from torchvision.models import get_model_weights

    if weights not in get_spec(name).weights:
        raise InputError(
            f"{name} has no published weights {weights!r}; there are {', '.join(get_spec(name).weights) or 'none'}"
        )
    return get_model_weights(name)[weights]


def _published_weights(name: str, weights: str) -> dict[str, Tensor]:
    """torchvision's weights, downloaded once into torch's cache."""
    url = _torchvision_weights(name, weights).url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        hash_prefix = file.stem.rpartition("-")[2]
        print(f"downloading {url} to {file}")
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=hash_prefix)
        except OSError as error:  # urllib's URLError is one
            reason = getattr(error, "reason", error)
            raise InputError(
                f"cannot download {weights} of {name} ({reason}); put {url} at {file}, or use --weights none"
            ) from None
        except RuntimeError as error:  # the hash
            raise InputError(f"download of {url} is damaged ({error}); try again") from None
    return load_torch_file(file)


def _weights_file(name: str, file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        known = ", ".join((*get_spec(name).weights, NO_WEIGHTS))
        raise InputError(f"--weights {file}: neither a file nor a name of weights for {name} ({known})")
    content = load_torch_file(file)
    return content["weights"] if isinstance(content.get("weights"), dict) else content


def load_torch_file(file: Path) -> dict:
    """torch.load() of a dict of tensors and plain values, never of code. Raises InputError naming the file."""
    import pickle

    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(f"{file}: not a plain PyTorch file: damaged, or holding code, which is never run") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: not a readable PyTorch file ({reason})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds a {type(content).__name__}, expected a dict of weights")
    return content


def _load_backbone(model: Recognizer, state: dict[str, Tensor], *, origin: str) -> None:
    head = get_spec(model.name).head + "."
    own = model.backbone.state_dict()
    fitting = {
        key: value for key, value in state.items() if key in own and getattr(value, "shape", None) == own[key].shape
    }
    misfits = sorted(key for key in set(own) - set(fitting) if not key.startswith(head))
    if misfits:
        raise InputError(
            f"{origin}: does not fit {model.name}: {len(misfits)} of its {len(own)} tensors are missing or of another "
            f"shape, {misfits[0]!r} among them"
        )
    if surplus := sorted(key for key in set(state) - set(own)):
        print(f"{origin}: {len(surplus)} tensors are not used: {', '.join(surplus[:5])}")
    if any(key.startswith(head) for key in set(own) - set(fitting)):
        print(f"{origin}: the last layer starts anew for {own[head + 'weight'].shape[0]} classes")
    model.backbone.load_state_dict({**own, **fitting})
