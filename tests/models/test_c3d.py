import pytest
import torch
import torch.nn.functional as F

from video_module.config import ClipConfig
from video_module.models.cost import measure_cost
from video_module.models.recognizer import build_model
from video_module.models.registry import get_spec

# Shapes of the tensors in the circulated Sports-1M weights.
SPORTS1M = {
    "conv1": (64, 3, 3, 3, 3),
    "conv2": (128, 64, 3, 3, 3),
    "conv3a": (256, 128, 3, 3, 3),
    "conv3b": (256, 256, 3, 3, 3),
    "conv4a": (512, 256, 3, 3, 3),
    "conv4b": (512, 512, 3, 3, 3),
    "conv5a": (512, 512, 3, 3, 3),
    "conv5b": (512, 512, 3, 3, 3),
    "fc6": (4096, 8192),
    "fc7": (4096, 4096),
    "fc8": (487, 4096),
}


def test_parameters_are_those_of_the_sports1m_weights():
    with torch.device("meta"):
        state = get_spec("c3d").build(num_classes=487).state_dict()
    expected = {f"{name}.weight": shape for name, shape in SPORTS1M.items()}
    expected |= {f"{name}.bias": shape[:1] for name, shape in SPORTS1M.items()}
    assert {key: tuple(value.shape) for key, value in state.items()} == expected
    assert measure_cost("c3d", num_classes=487).num_parameters == 79_991_015
    assert measure_cost("c3d", num_classes=101).num_parameters == 78_409_573


def test_computes_what_caffe_does():
    """Caffe reads BGR minus the mean of Sports-1M in 0..255, and its poolings start at the first cell and round up."""
    clip = get_spec("c3d").clip_config(clip_len=16, img_size=56)  # 7 cells before pool4, 4 before pool5
    model = build_model("c3d", num_classes=5, clip=clip).eval()
    clips = torch.randint(0, 256, (2, *clip.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    state = model.backbone.state_dict()
    x = clips.flip(-1).float() - torch.tensor([90.25, 97.66, 101.41])  # B, G, R
    x = x.permute(0, 4, 1, 2, 3)
    for name in SPORTS1M:
        if name.startswith("conv"):
            x = F.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
            if name in ("conv1", "conv2", "conv3b", "conv4b", "conv5b"):
                time = 1 if name == "conv1" else 2
                after = [(-length) % 2 for length in x.shape[3:]]  # the last window extends past the end
                x = F.max_pool3d(F.pad(x, (0, after[1], 0, after[0])), (time, 2, 2))
        else:
            x = F.linear(x.flatten(1), state[f"{name}.weight"], state[f"{name}.bias"])
            x = x.relu() if name != "fc8" else x
    with torch.inference_mode():
        torch.testing.assert_close(model(clips), x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (3, 33), (16, 112)])
def test_is_built_for_its_clip(size):
    clip = ClipConfig(num_frames=size[0], frame_stride=1, resize=size[1], crop=size[1])
    with torch.device("meta"):
        net = get_spec("c3d").build(num_classes=2, clip=clip).eval()
        assert net(torch.zeros(1, 3, size[0], size[1], size[1])).shape == (1, 2)


def test_starts_with_signals_that_live():
    """Without normalisation, the logits of an untrained network must neither vanish nor explode."""
    clip = get_spec("c3d").clip_config(img_size=32)
    model = build_model("c3d", num_classes=10, clip=clip).eval()
    clips = torch.randint(0, 256, (4, *clip.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.inference_mode():
        logits = model(clips)
    assert 0.05 < logits.std() < 5
