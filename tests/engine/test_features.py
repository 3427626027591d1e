import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from video_module.config import ClipConfig
from video_module.data.dataset import EvaluationViews, Views
from video_module.data.records import VideoRecord
from video_module.engine import features
from video_module.engine.features import LocatedVideo, compute_features, expose_features, network_digest
from video_module.errors import InputError, VideoError
from video_module.models.recognizer import build_model
from video_module.models.registry import MODELS

CLIP = ClipConfig(num_frames=4, frame_stride=2, resize=16, crop=16)


class Counting:
    """An embedding that returns the mean brightness of a clip and of its left half, and counts the clips."""

    def __init__(self):
        self.num_clips = 0

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        assert clips.dtype == np.uint8 and clips.shape[1:] == CLIP.shape
        self.num_clips += len(clips)
        halves = clips.reshape(len(clips), -1, 16, 3)
        return np.stack([halves.mean(axis=(1, 2, 3)), halves[:, :, :8].mean(axis=(1, 2, 3))], axis=1)


@pytest.fixture
def embed():
    return Counting()


@pytest.fixture
def videos(make_video):
    """A long video, a short one, and one that must not be mirrored."""

    def locate(name, num_frames, *, may_flip=True):
        path = make_video(num_frames, name=name)
        record = VideoRecord(path=name, label="a", source=name, num_frames=num_frames, fps=25)
        return LocatedVideo(path=path, record=record, may_flip=may_flip)

    return [locate("long.avi", 60), locate("short.avi", 7), locate("still.avi", 50, may_flip=False)]


def compute(videos, tmp_path, embed, *, network="net"):
    return compute_features(
        videos, tmp_path / "x_features.npz", lambda: embed, clip=CLIP, network=network, num_workers=0
    )


def test_clips_and_their_mirror_images(videos, tmp_path, embed):
    plain, mirrored = compute(videos, tmp_path, embed)
    assert [len(rows) for rows in plain] == [4, 1, 4]
    assert [len(rows) for rows in mirrored] == [4, 1, 0]
    assert plain[0].dtype == np.float32 and plain[0].shape == (4, 2)
    assert np.all(np.diff(plain[0][:, 0]) > 20)  # frames get brighter, so the clips are in order and spread out
    assert embed.num_clips == 14


def test_a_mirror_image_is_mirrored(tmp_path, embed):
    from video_module.data.encoding import write_video

    frames = np.zeros((7, 16, 16, 3), np.uint8)
    frames[:, :, :8] = 200
    write_video(tmp_path / "half.avi", frames, fps=25)
    record = VideoRecord(path="half.avi", label="a", source="half", num_frames=7, fps=25)
    [plain], [mirrored] = compute(
        [LocatedVideo(path=tmp_path / "half.avi", record=record, may_flip=True)], tmp_path, embed
    )
    assert plain[0, 1] > 180 and mirrored[0, 1] < 20


def test_clips_are_those_that_evaluation_takes_where_frames_are_not_evenly_spaced():
    clip = ClipConfig(num_frames=4, target_fps=5, resize=16, crop=16)
    edges = [0.02 * number for number in range(51)] + [1 + 0.1 * number for number in range(1, 51)]
    record = VideoRecord(path="v.mp4", label="a", source="v", num_frames=100, fps=100 / 6, edges_s=edges)
    views = Views(num_crops=1)
    expected = EvaluationViews(Path(), [record], clip, views).clip_indices(0)
    assert np.array_equal(features._DistinctClips(Path(), [record], clip, views).clip_indices(0), expected)


@pytest.mark.parametrize(("num_frames", "expected"), [(7, 1), (8, 1), (9, 2), (12, 3), (13, 4), (60, 4)])
def test_clips_are_a_quarter_of_a_clip_apart(make_video, tmp_path, embed, num_frames, expected):
    """A clip spans 7 frames, and four clips that differ in one frame would cost four times as much for nothing."""
    record = VideoRecord(path="v.avi", label="a", source="v", num_frames=num_frames, fps=25)
    video = LocatedVideo(path=make_video(num_frames, name="v.avi"), record=record, may_flip=False)
    [plain], _ = compute([video], tmp_path, embed)
    assert len(plain) == expected
    assert len(np.unique(plain, axis=0)) == expected


def test_only_what_is_new_is_computed(videos, tmp_path, embed, make_video):
    first = compute(videos[:2], tmp_path, embed)
    again = Counting()
    second = compute(videos, tmp_path, again)
    assert again.num_clips == 4  # of the third video, unmirrored
    for old, new in zip(first, second, strict=True):
        for one, other in zip(old, new, strict=False):
            assert np.array_equal(one, other)
    # If its class may be mirrored after all, only the mirror images are missing.
    compute([*videos[:2], replace(videos[2], may_flip=True)], tmp_path, again)
    assert again.num_clips == 8


def test_nothing_new_asks_for_no_network(videos, tmp_path, embed):
    compute(videos, tmp_path, embed)
    compute_features(
        videos, tmp_path / "x_features.npz", lambda: pytest.fail("built"), clip=CLIP, network="net", num_workers=0
    )


def test_a_renamed_video_and_its_copy_are_known(videos, tmp_path, embed, capsys):
    shutil.copy(videos[0].path, tmp_path / "copy.avi")
    copy = replace(videos[0], path=tmp_path / "copy.avi")
    plain, _ = compute([videos[0], copy], tmp_path, embed)
    assert "found 0 of 2 videos" in capsys.readouterr().out
    assert embed.num_clips == 8
    assert np.array_equal(plain[0], plain[1])
    compute([replace(copy, path=videos[0].path.rename(tmp_path / "renamed.avi"))], tmp_path, embed)
    assert embed.num_clips == 8


def test_a_copy_in_a_class_that_may_be_mirrored_has_its_mirror_image(videos, tmp_path, embed):
    kept = replace(videos[0], may_flip=False)
    for both in ([videos[0], kept], [kept, videos[0]]):
        _, mirrored = compute(both, tmp_path, embed)
        assert sorted(map(len, mirrored)) == [0, 4]


def test_changed_content_is_computed_again(videos, tmp_path, embed, make_video):
    compute(videos[:1], tmp_path, embed)
    make_video(60, name="long.avi", fps=24)
    compute(videos[:1], tmp_path, embed)
    assert embed.num_clips == 16


def test_another_network_starts_anew_and_leaves_the_others_features(videos, tmp_path, embed):
    compute(videos, tmp_path, embed)
    compute(videos, tmp_path, embed, network="other")
    assert embed.num_clips == 28
    compute(videos, tmp_path, embed)
    compute(videos, tmp_path, embed, network="other")
    assert embed.num_clips == 28


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_what_was_computed_before_the_end_is_kept(videos, tmp_path, embed, error):
    def fails(clips):
        if embed.num_clips >= 4:
            raise error
        return embed(clips)

    with pytest.raises(error):
        compute(videos, tmp_path, fails)
    before = embed.num_clips
    compute(videos, tmp_path, embed)
    assert embed.num_clips == 14 and before >= 4
    assert not list(tmp_path.glob(".*partial*"))


def test_a_long_run_saves_as_it_goes(videos, tmp_path, embed, monkeypatch):
    """Features saved so far survive a SIGKILL."""
    monkeypatch.setattr(features, "_SAVE_EVERY_S", 0.0)
    sizes = []

    def watched(clips):
        path = tmp_path / "x_features.npz"
        sizes.append(path.stat().st_size if path.is_file() else 0)
        return embed(clips)

    compute(videos, tmp_path, watched)
    assert sizes[0] == 0 and sizes[1] > 0 and sizes == sorted(sizes)


def test_a_damaged_file_is_named(videos, tmp_path, embed):
    (tmp_path / "x_features.npz").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"x_features\.npz: damaged, or not a feature file .*; delete it"):
        compute(videos, tmp_path, embed)


def test_a_video_that_cannot_be_read_is_named(videos, tmp_path, embed):
    videos[1].path.write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"short\.avi"):
        compute(videos, tmp_path, embed)
    videos[1].path.unlink()
    with pytest.raises(InputError, match=r"short\.avi: cannot be read \(No such file"):
        compute(videos, tmp_path, embed)


SMALL = {"swin3d_nano": (8, 64), "r3d_18": (8, 32), "i3d": (16, 64), "mvit_v2_s": (4, 64)}


@pytest.mark.parametrize("name", [name for name in SMALL if name in MODELS])
def test_features_are_what_the_last_layer_gets(name):
    """Applying the last layer to the features gives the network's logits, whatever the network does around it."""
    frames, side = SMALL[name]
    clip = MODELS[name].clip_config(clip_len=frames, img_size=side)
    model = build_model(name, num_classes=3, clip=clip, seed=1).eval()
    clips = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, *clip.shape), np.uint8))
    weight, bias = model.head.weight.detach().flatten(1), model.head.bias.detach()
    with torch.inference_mode():
        logits = model(clips)
    num_features = expose_features(model)
    with torch.inference_mode():
        rows = model(clips)
    assert rows.shape == (2, num_features) and rows.std() > 0
    torch.testing.assert_close(rows @ weight.T + bias, logits, rtol=1e-4, atol=1e-4)
    features.replace_head(model, weight, bias)
    with torch.inference_mode():
        torch.testing.assert_close(model(clips), logits)


def test_digest_of_a_network_with_counters():
    """Batch norm's counters are single numbers rather than arrays."""
    assert len({network_digest(build_model("r3d_18", num_classes=n), precision="fp32") for n in (2, 2)}) == 1


def test_digest_of_a_network():
    def digest(*, num_classes=3, seed=0, precision="fp32", **clip):
        clip = MODELS["swin3d_nano"].clip_config(**clip)
        return network_digest(
            build_model("swin3d_nano", num_classes=num_classes, clip=clip, seed=seed), precision=precision
        )

    assert digest() == digest()
    others = [digest(seed=1), digest(precision="bf16"), digest(frame_stride=2), digest(target_fps=10.0)]
    assert len({digest(), *others}) == 5
    # A new class changes only the last layer.
    few = build_model("swin3d_nano", num_classes=3)
    many = build_model("swin3d_nano", num_classes=7)
    many.backbone.load_state_dict(
        {k: v for k, v in few.backbone.state_dict().items() if not k.startswith("head.")}, strict=False
    )
    assert network_digest(few, precision="fp32") == network_digest(many, precision="fp32")
