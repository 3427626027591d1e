import numpy as np
import pytest
import torch

from tests.conftest import frame_numbers
from video_module.config import ClipConfig
from video_module.data import dataset, sampling, splits, transforms
from video_module.data.decoding import VideoError, read_frames
from video_module.data.labels import find_class_names
from video_module.errors import InputError

CLIP = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)


@pytest.fixture(scope="module")
def videos(drawn_data):
    return splits.load_videos(drawn_data / "train", num_workers=1)


def training_clips(drawn_data, videos, *, augment="light", seed=3):
    names = find_class_names(drawn_data / "train")
    return dataset.TrainingClips(drawn_data / "train", videos, names, CLIP, augment=augment, seed=seed)


def test_training_items(drawn_data, videos):
    clip, label = training_clips(drawn_data, videos)[0, 5]
    assert (clip.dtype, tuple(clip.shape)) == (torch.uint8, CLIP.shape)
    assert find_class_names(drawn_data / "train")[label] == videos[5].label


def test_draws_depend_on_seed_epoch_and_video_alone(drawn_data, videos):
    clips = training_clips(drawn_data, videos)
    first = clips[2, 7][0]
    clips[0, 1], clips[5, 3]  # what was asked for between makes no difference
    assert torch.equal(clips[2, 7][0], first)
    assert not torch.equal(clips[3, 7][0], first)
    assert not torch.equal(training_clips(drawn_data, videos, seed=4)[2, 7][0], first)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loader_gives_the_same_batches_whatever_the_workers(drawn_data, videos, num_workers):
    clips = training_clips(drawn_data, videos)
    loader, sampler = dataset.training_loader(clips, batch_size=5, num_workers=num_workers, pin_memory=False)
    sampler.epoch = 1
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 4]
    order = list(sampler)
    assert sorted(index for _, index in order) == list(range(24))
    expected = [clips[key] for key in order]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), torch.stack([clip for clip, _ in expected]))
    sampler.epoch = 2
    assert list(sampler) != [(2, index) for _, index in order]


def test_without_augmentation_training_sees_what_evaluation_sees(drawn_data, videos):
    """One way for pixels: the same frames give equal tensors on both paths."""
    video = videos[0]
    start = 4
    indices = sampling.clip_indices(start, video.num_frames, CLIP)
    frames = read_frames(drawn_data / "train" / video.path, indices)
    training = training_clips(drawn_data, videos, augment="none")._augmentation(frames, seed=0)
    views = dataset.Views(sampling="windows", clip_step=start, num_crops=1)
    evaluation, _ = dataset.EvaluationViews(drawn_data / "train", videos, CLIP, views)[0]
    assert np.array_equal(training, evaluation[1].numpy())


def test_evaluation_views_are_the_planned_ones(make_video):
    path = make_video(40)
    video = splits.VideoRecord(path=path.name, label="a", source="s", num_frames=40, fps=25)
    views = dataset.Views(num_clips=3, num_crops=3)
    tensor, index = dataset.EvaluationViews(path.parent, [video], CLIP, views)[0]
    assert (index, tuple(tensor.shape)) == (0, (9, *CLIP.shape))
    starts = sampling.uniform_starts(40, CLIP, 3)
    for number, start in enumerate(starts):
        for crop in range(3):
            expected = sampling.clip_indices(start, 40, CLIP).tolist()
            assert frame_numbers(tensor[number * 3 + crop].numpy()) == expected
    frames = read_frames(path, [0], per_frame=lambda frame: transforms.resize_frame(frame, CLIP))
    assert np.array_equal(tensor[2, 0].numpy(), transforms.views(frames, CLIP, 3)[2, 0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_breaks_later_is_one_line_from_any_worker(make_video, num_workers):
    path = make_video(20)
    video = splits.VideoRecord(path=path.name, label="a", source="s", num_frames=99, fps=25)
    views = dataset.EvaluationViews(path.parent, [video], CLIP, dataset.Views())
    with pytest.raises(VideoError) as error:
        list(dataset.evaluation_loader(views, num_workers=num_workers))
    assert str(error.value).startswith(f"{path}: frame ")
    assert "\n" not in str(error.value)


def test_unknown_class_is_refused(videos):
    with pytest.raises(InputError, match="class 'jump' of the videos is not among the 2 known"):
        dataset.label_indices(videos, ["sit", "stand", "pull", "push", "wave"][:2])
