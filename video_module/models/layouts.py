"""Convert published weights to the names of this project's networks (torchvision's, where it has the network).

A layout is a list of rules for renaming tensors. The layout of a file is found automatically, as the one that fits the
most tensors.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from video_module.errors import InputError

_WRAPPERS = ("weights", "state_dict", "model", "model_state_dict", "model_state")
"""Keys under which training programs save the weights beside the optimiser's state and other data."""


@dataclass(frozen=True)
class Layout:
    name: str
    rules: tuple[tuple[str, str], ...] = ()
    """Pairs of regular expression and replacement, applied to a tensor's name in order."""
    inflated: bool = False
    """Whether the weights come from an image network, so that their kernels need a time axis."""

    def rename(self, key: str) -> str:
        for pattern, replacement in self.rules:
            key = re.sub(pattern, replacement, key)
        return key


# The numbers have gaps because layers without parameters were counted too.
_CAFFE_C3D = {
    "features": {
        0: "conv1",
        3: "conv2",
        6: "conv3a",
        8: "conv3b",
        11: "conv4a",
        13: "conv4b",
        16: "conv5a",
        18: "conv5b",
    },
    "classifier": {0: "fc6", 3: "fc7", 6: "fc8"},
}
_GOOGLENET_BRANCHES = {
    "branch1": "b0",
    "branch2.0": "b1a",
    "branch2.1": "b1b",
    "branch3.0": "b2a",
    "branch3.1": "b2b",
    "branch4.1": "b3b",
}

LAYOUTS = (
    Layout("this project and torchvision"),
    Layout("a Recognizer's state dict", ((r"^backbone\.", ""),)),
    Layout(
        "Video-Swin-Transformer and mmaction",
        (
            (r"^backbone\.", ""),
            # torchvision numbers the stages and the patch mergings between them as one list.
            *((rf"^layers\.{stage}\.blocks\.", f"features.{2 * stage}.") for stage in range(4)),
            *((rf"^layers\.{stage}\.downsample\.", f"features.{2 * stage + 1}.") for stage in range(4)),
            (r"\.mlp\.fc1\.", ".mlp.0."),
            (r"\.mlp\.fc2\.", ".mlp.3."),
            (r"^norm3\.", "norm."),  # mmaction 1 numbers the stages' norms
            (r"^cls_head\.fc_cls\.", "head."),
        ),
    ),
    Layout(
        "C3D as converted from Caffe (features, classifier)",
        tuple(
            (rf"^{part}\.{number}\.", f"{name}.")
            for part, names in _CAFFE_C3D.items()
            for number, name in names.items()
        ),
    ),
    Layout(
        "mmaction's C3D",
        (
            (r"^backbone\.", ""),
            (r"^conv([12])a\.conv\.", r"conv\1."),
            (r"^conv(\d[ab])\.conv\.", r"conv\1."),
            (r"^cls_head\.fc_cls\.", "fc8."),
        ),
    ),
    Layout(
        "torchvision's GoogLeNet, inflated",
        (
            # GoogLeNet letters its modules from a. The first Inception code starts at b, after the pooling.
            *((rf"^inception(\d){a}\.", rf"Mixed_\1{b}.") for a, b in zip("abcde", "bcdef", strict=True)),
            *((rf"^(Mixed_..)\.{a}\.(?=conv|bn)", rf"\1.{b}.") for a, b in _GOOGLENET_BRANCHES.items()),
            (r"^conv1\.(?=conv|bn)", "Conv3d_1a_7x7."),
            (r"^conv2\.(?=conv|bn)", "Conv3d_2b_1x1."),
            (r"^conv3\.(?=conv|bn)", "Conv3d_2c_3x3."),
            (r"\.conv\.weight$", ".conv3d.weight"),
            (r"^fc\.", "logits.conv3d."),
        ),
        inflated=True,
    ),
)


def inflate(conv2d_weight: Tensor, time: int) -> Tensor:
    """Turn an image convolution (C, D, H, W) into a video convolution (C, D, time, H, W).

    The method is that of I3D (Carreira & Zisserman, 2017, section 2.1).
    """
    # Repeated along time and divided by `time`, the kernel gives the same result for a video of one still image as for
    # the image itself, except at both ends of the video, where zero padding makes the result smaller.
    if conv2d_weight.ndim != 4:
        raise ValueError(f"conv2d_weight must be (C, D, H, W), got {tuple(conv2d_weight.shape)}")
    if time < 1:
        raise ValueError(f"time must be at least 1, got {time}")
    return conv2d_weight[:, :, None].repeat(1, 1, time, 1, 1) / time


def find_weights(content: Mapping, *, origin: str) -> dict[str, Tensor]:
    """Return the weights in a loaded file by name, without what a training program saved around them.

    Raises InputError if there are none.
    """
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    weights = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(
            f"{origin}: contains no weights; its entries: {', '.join(map(str, list(content)[:8])) or 'none'}"
        )
    if all(key.startswith("module.") for key in weights):  # prefix of DataParallel
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return weights


def match_layout(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    """Find the layout that fits the most tensors of a network's state dict `own`, and rename the weights with it."""
    candidates = [(layout, _convert(weights, own, layout)) for layout in LAYOUTS]
    return max(candidates, key=lambda candidate: len(fitting(candidate[1], own)))


def fitting(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> set[str]:
    """Return the names of the tensors that both have in the same shape."""
    return {key for key, value in weights.items() if key in own and own[key].shape == value.shape}


def _convert(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    converted = {layout.rename(key): value for key, value in weights.items()}
    if layout.inflated:
        for key, value in converted.items():
            if key in own and own[key].ndim == 5 and value.ndim in (2, 4):
                kernel = value if value.ndim == 4 else value[..., None, None]  # a linear layer is a 1 x 1 convolution
                converted[key] = inflate(kernel, own[key].shape[2])
    return converted


def outline(keys: Collection[str], among: Collection[str]) -> str:
    """List tensor names in one line, shortened to `layer4.*` where all tensors of a module are included."""
    keys, texts = set(keys), {}
    for key in among:
        if key not in keys:
            continue
        parts = key.split(".")
        prefixes = (".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
        whole = next((prefix for prefix in prefixes if all(k in keys for k in among if k.startswith(prefix))), None)
        texts[f"{whole}*" if whole else key] = None
    return ", ".join(texts)
