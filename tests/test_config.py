import json

import pytest

from video_module.config import ClipConfig, TrainConfig
from video_module.errors import InputError
from video_module.models.registry import MODELS, get_spec


@pytest.mark.parametrize("clip", [ClipConfig(), ClipConfig(resize=(128, 171), crop=112, target_fps=25.0)])
def test_clip_config_json_round_trip(clip):
    assert ClipConfig.from_dict(json.loads(json.dumps(clip.to_dict()))) == clip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"frame_stride": -1}, "frame_stride must be at least 1"),
        ({"resize": 100, "crop": 112}, "resize 100 is smaller than crop 112"),
        ({"target_fps": 0}, "target_fps must be positive"),
        ({"std": (0.2, 0.0, 0.2)}, "std must be positive"),
    ],
)
def test_invalid_clip_configs_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig(**settings)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="unknown clip settings"):
        ClipConfig.from_dict({**ClipConfig().to_dict(), "stereo": True})


@pytest.mark.parametrize(
    "settings",
    [
        *({"num_epochs": 0}, {"lr": 0}, {"lr": float("nan")}, {"label_smoothing": 1}, {"weight_decay": -1}),
        *({"batch_size": 0}, {"batch_size": "most"}, {"layer_decay": 0}, {"ema_decay": 1}, {"mixup": -0.1}),
        *({"save_every": "0"}, {"save_every": "10s"}, {"save_every": "1.5"}, {"patience": -1}),
        {"precision": "fp8"},
        {"num_repeats": 3},  # does not divide the batch of 64
        {"num_repeats": 2, "sampling": "windows"},
    ],
)
def test_invalid_train_configs_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        TrainConfig(**settings)


def test_save_interval():
    inf = float("inf")
    given = {"200": (200, inf), "10min": (inf, 600), "0.5min": (inf, 30), ".5min": (inf, 30)}
    assert {text: TrainConfig(save_every=text).save_interval for text in given} == given


def test_user_settings_override_the_recipe_and_the_recipe_overrides_defaults():
    spec = get_spec("swin3d_b")
    assert spec.train_config(weights="KINETICS400_V1", given={}).lr == 3e-4
    assert spec.train_config(weights="KINETICS400_V1", given={"lr": 5.0}).lr == 5.0
    assert spec.train_config(weights="KINETICS400_V1", given={}).backbone_lr_scale == 0.1
    assert spec.train_config(weights="none", given={}).backbone_lr_scale == 1.0
    assert spec.train_config(weights="none", given={"backbone_lr_scale": 0.5}).backbone_lr_scale == 0.5
    assert spec.train_config(weights="none", given={}).num_repeats == 2
    assert spec.train_config(weights="none", given={"sampling": "windows"}).num_repeats == 1
    with pytest.raises(InputError, match="lr must be positive"):
        spec.train_config(weights="none", given={"lr": -1})


def test_img_size_keeps_the_ratio_of_resize_to_crop():
    clip = get_spec("swin3d_t").clip_config(img_size=112, clip_len=16)
    assert (clip.crop, clip.resize, clip.num_frames, clip.frame_stride) == (112, 128, 16, 2)


def test_target_fps_can_be_replaced_and_disabled():
    given = {None: 15, 25.0: 25.0, 0.0: None}
    assert {fps: get_spec("r2plus1d_18").clip_config(target_fps=fps).target_fps for fps in given} == given
    assert get_spec("swin3d_t").clip_config(target_fps=0.0).target_fps is None


@pytest.mark.parametrize("name", MODELS)
def test_every_recipe_is_valid(name):
    MODELS[name].train_config(weights=MODELS[name].default_weights, given={})
