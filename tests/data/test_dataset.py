import multiprocessing
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import frame_numbers
from video_module.config import ClipConfig, TrainConfig
from video_module.data import dataset, records, sampling, transforms
from video_module.data.decoding import read_frames
from video_module.data.encoding import write_video
from video_module.data.labels import find_class_names
from video_module.errors import InputError, VideoError
from video_module.inference.windows import iter_windows

CLIP = ClipConfig(num_frames=4, frame_stride=3, resize=48, crop=40)


@pytest.fixture(scope="module")
def videos(drawn_data):
    return records.load_videos(drawn_data / "train", num_workers=1)


def views_of(views, index=0):
    return np.stack(list(views.cut(*views[index])))


def training_clips(drawn_data, videos, *, clip=CLIP, **settings):
    names = find_class_names(drawn_data / "train")
    config = TrainConfig(**{"augment": "light", "seed": 3} | settings)
    return dataset.TrainingClips(drawn_data / "train", videos, names, clip, config)


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
    loader, sampler = dataset.training_loader(clips, effective_batch=5, num_workers=num_workers, pin_memory=False)
    sampler.epoch = 1
    batches = list(loader)
    assert [len(labels) for _, labels, _ in batches] == [5, 5, 5, 5, 4]
    order = [key for batch in sampler for key in batch]
    assert sorted(index for _, index, _ in order) == list(range(24))
    expected = [clips[key] for key in order]
    assert torch.equal(torch.cat([batch for batch, _, _ in batches]), torch.stack([clip for clip, _ in expected]))
    sampler.epoch = 2
    assert [key for batch in sampler for key in batch] != [(2, index, 0) for _, index, _ in order]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_steps_hold_the_same_clips_however_many_processes_share_them(world_size):
    """23 videos, twice each, in steps of 10 clips: every process takes a part, and all of a step is taken once."""
    samplers = [
        dataset.StepSampler(23, seed=1, effective_batch=10, num_repeats=2, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    alone = dataset.StepSampler(23, seed=1, effective_batch=10, num_repeats=2)
    for sampler in (*samplers, alone):
        sampler.epoch = 4
    expected = [sorted(key for batch in step for key in batch) for step in alone.steps()]
    assert [len(step) for step in expected] == [10, 10, 10, 10, 6]
    assert sorted(key for step in expected for key in step) == [(4, i, r) for i in range(23) for r in range(2)]
    shared = [list(sampler.steps()) for sampler in samplers]
    for number, step in enumerate(expected):
        parts = [[key for batch in steps[number] for key in batch] for steps in shared]
        assert sorted(key for part in parts for key in part) == step
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for sampler in samplers:
        whole, sampler.first_step = list(sampler.steps()), 3  # as a run that goes on within the epoch
        assert list(sampler.steps()) == whole[3:]
        assert len(sampler) == len(list(sampler))


def test_a_batch_has_no_more_than_fits_into_a_worker_and_no_video_beside_itself():
    sampler = dataset.StepSampler(100, seed=1, effective_batch=64, num_repeats=2)
    for step in sampler.steps():
        sizes = [len(batch) for batch in step]
        assert max(sizes) <= dataset.largest_batch(64) == 16
        assert max(sizes) <= 16
        assert max(sizes) - min(sizes) <= 1
        for batch in step:
            videos = [index for _, index, _ in batch]
            assert all(a != b for a, b in zip(videos, videos[1:] + videos[:1], strict=True))


def test_the_largest_batch_is_that_of_whole_steps():
    """40 clips in steps of 24: memory is looked for by what comes again and again."""
    sizes = [[len(batch) for batch in step] for step in dataset.StepSampler(40, seed=1, effective_batch=24).steps()]
    assert sizes == [[12, 12], [16]]
    assert dataset.largest_batch(24) == 12


def test_repeats_of_a_video_are_drawn_apart(drawn_data, videos):
    clips = training_clips(drawn_data, videos)
    first, second = clips[2, 7, 0][0], clips[2, 7, 1][0]
    assert not torch.equal(first, second)
    assert torch.equal(first, clips[2, 7][0])


def test_without_augmentation_training_sees_what_evaluation_sees(drawn_data, videos):
    """One way for pixels: the same frames give equal tensors on both paths."""
    video = videos[0]
    start = 4
    indices = sampling.clip_indices(start, video.num_frames, CLIP)
    frames = read_frames(drawn_data / "train" / video.path, indices)
    training = training_clips(drawn_data, videos, augment="none").augment(frames, seed=0)
    views = dataset.Views(sampling="windows", clip_step=start, num_crops=1)
    evaluation = views_of(dataset.EvaluationViews(drawn_data / "train", videos, CLIP, views))
    assert np.array_equal(training, evaluation[1])


def test_evaluation_views_are_the_planned_ones(make_video):
    path = make_video(40)
    video = records.VideoRecord(path=path.name, label="a", source="s", num_frames=40, fps=25)
    views = dataset.Views(num_clips=3, num_crops=3)
    cut = views_of(dataset.EvaluationViews(path.parent, [video], CLIP, views))
    assert (cut.dtype, cut.shape) == (np.uint8, (9, *CLIP.shape))
    starts = sampling.uniform_starts(40, CLIP, 3)
    for number, start in enumerate(starts):
        for crop in range(3):
            expected = sampling.clip_indices(start, 40, CLIP).tolist()
            assert frame_numbers(cut[number * 3 + crop]) == expected
    frames = read_frames(path, [0], per_frame=lambda frame: transforms.resize_frame(frame, CLIP))
    assert np.array_equal(cut[2, 0], transforms.cut_crops(frames, CLIP, 3)[2][0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_breaks_later_is_one_line_from_any_worker(make_video, num_workers):
    path = make_video(20)
    video = records.VideoRecord(path=path.name, label="a", source="s", num_frames=99, fps=25)
    views = dataset.EvaluationViews(path.parent, [video], CLIP, dataset.Views())
    with pytest.raises(VideoError) as error:
        list(dataset.EvaluationLoader(views, num_workers=num_workers))
    assert str(error.value).startswith(f"{path}: frame ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_video_that_fails_is_left_out_of_its_batch(drawn_data, videos, num_workers):
    missing = replace(videos[3], path="sit/gone.avi")
    clips = training_clips(drawn_data, [*videos[:3], missing, *videos[4:8]])
    loader, _ = dataset.training_loader(clips, effective_batch=8, num_workers=num_workers, pin_memory=False)
    [(batch, labels, failures)] = list(loader)
    assert (len(batch), len(labels)) == (7, 7)
    assert failures == [f"{drawn_data / 'train' / 'sit/gone.avi'}: no such file"]
    alone = training_clips(drawn_data, [missing])
    loader, _ = dataset.training_loader(alone, effective_batch=8, num_workers=num_workers, pin_memory=False)
    [(batch, labels, failures)] = list(loader)
    assert (batch, len(labels), len(failures)) == (None, 0, 1)


def die(frames, *, seed, may_flip):
    """As a decoder that crashes, or a system that is out of memory, ends a process."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def test_a_killed_worker_is_one_line(drawn_data, videos):
    clips = training_clips(drawn_data, videos)
    clips.augment.finish = die
    loader, _ = dataset.training_loader(clips, effective_batch=8, num_workers=1, pin_memory=False)
    with pytest.raises(InputError, match=r"a decoding process died .*--num_workers") as error:
        list(loader)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("num_workers", [0, 1, 3, 40])
def test_the_evaluation_loader_keeps_the_order_whatever_the_workers(drawn_data, videos, num_workers):
    views = dataset.EvaluationViews(drawn_data / "train", videos, CLIP, dataset.Views(num_clips=2, num_crops=3))
    num_threads = cv2.getNumThreads()
    loaded = [(index, list(cut)) for cut, index in dataset.EvaluationLoader(views, num_workers=num_workers)]
    assert [index for index, _ in loaded] == list(range(len(videos)))
    for index, cut in loaded[::5]:
        assert np.array_equal(np.stack(cut), views_of(views, index))
    assert cv2.getNumThreads() == num_threads


def test_a_reader_that_is_given_up_leaves_nothing_running(drawn_data, videos):
    views = dataset.EvaluationViews(drawn_data / "train", videos, CLIP, dataset.Views())
    reading = iter(dataset.EvaluationLoader(views, num_workers=2))
    next(reading)
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read")]


# spawned ones train in tests/test_portability.py
METHODS = [method for method in ("fork", "forkserver") if method in multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("method", METHODS)
def test_workers_start_after_opencv_has_used_its_threads(drawn_data, videos, method):
    """A forked child inherits locks that OpenCV's threads held, but not the threads: it must not ask for them."""
    cv2.setNumThreads(4)
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000))  # large enough to wake them
    clips = training_clips(drawn_data, videos)
    loader, sampler = dataset.training_loader(
        clips, effective_batch=5, num_workers=1, pin_memory=False, multiprocessing_context=method, timeout_s=120
    )
    sampler.epoch = 1
    order = list(sampler)
    for number, (batch, _, _) in enumerate(loader):
        assert torch.equal(batch[0], clips[order[number][0]][0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_worker_does_not_grow(make_video):
    """1,600 items through one worker: what it holds after the first half is what it holds at the end."""
    path = make_video(12)
    videos = [records.VideoRecord(path=path.name, label="a", source="s", num_frames=12, fps=25)] * 400
    clips = dataset.TrainingClips(path.parent, videos, ["a"], CLIP, TrainConfig(augment="light"))
    loader, sampler = dataset.training_loader(clips, effective_batch=16, num_workers=1, pin_memory=False)
    held = []
    for epoch in range(4):
        sampler.epoch = epoch
        for batch in loader:
            assert batch[0].shape[1:] == CLIP.shape
        [worker] = multiprocessing.active_children()
        [line] = [line for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if "RssAnon" in line]
        held.append(int(line.split()[1]))
    # 800 clips of 19 kB would be 15 MB; an allocator's own moods are some 3
    assert held[-1] - held[1] < 4096, f"kB held after each 400 items: {held}"


def test_dense_windows_are_items_of_their_own(drawn_data, videos):
    clips = training_clips(drawn_data, videos, sampling="windows", clip_step=7, augment="none")
    starts = [sampling.window_starts(video.num_frames, CLIP, 7) for video in videos]
    assert len(clips) == sum(map(len, starts)) > 2 * len(videos)
    index = len(starts[0]) + 2  # the third window of the second video
    assert clips.video_of(index) == videos[1]
    wanted = sampling.clip_indices(starts[1][2], videos[1].num_frames, CLIP)
    frames = read_frames(
        drawn_data / "train" / videos[1].path, wanted, per_frame=lambda frame: transforms.resize_frame(frame, CLIP)
    )
    for epoch in range(2):
        assert np.array_equal(clips[epoch, index][0].numpy(), transforms.center_crop(frames, CLIP))


def test_windows_of_one_video_are_augmented_apart(drawn_data, videos):
    still = ClipConfig(num_frames=1, frame_stride=1, resize=48, crop=40)
    clips = training_clips(drawn_data, videos[:1] * 2, clip=still, sampling="windows", clip_step=1)
    assert not torch.equal(clips[0, 0][0], clips[0, 1][0])


@pytest.mark.parametrize(("no_flip", "mirrored"), [((), True), (("all",), False), (("pull",), False), (("sit",), True)])
def test_classes_that_a_mirror_would_change_are_not_mirrored(drawn_data, videos, monkeypatch, no_flip, mirrored):
    flips = []
    clips = training_clips(drawn_data, videos, no_flip=no_flip)
    monkeypatch.setattr(clips.augment, "finish", lambda frames, seed, may_flip: flips.append(may_flip) or frames)
    index = next(index for index, video in enumerate(videos) if video.label == "pull")
    clips[0, index]
    assert flips == [mirrored]


def test_no_flip_of_an_unknown_class_is_refused(drawn_data, videos):
    with pytest.raises(InputError, match="--no_flip swim: not a class"):
        training_clips(drawn_data, videos, no_flip=("sit", "swim"))


@pytest.mark.parametrize("fps", [25, 30, 60])
def test_target_fps_makes_files_of_all_rates_look_alike(tmp_path, fps):
    """The same two seconds at three rates: training and serving see the same moments of them."""
    path = tmp_path / "x.avi"
    times = np.arange(2 * fps) / fps
    write_video(path, (np.full((48, 64, 3), round(100 * time) + 20, np.uint8) for time in times), fps=fps)
    clip = ClipConfig(num_frames=4, frame_stride=3, target_fps=15, resize=48, crop=40)  # 0.2 s from frame to frame
    video = records.VideoRecord(path=path.name, label="a", source="s", num_frames=2 * fps, fps=fps)
    config = TrainConfig(sampling="windows", clip_step=6, augment="none")
    training = dataset.TrainingClips(tmp_path, [video], ["a", "b"], clip, config)
    serving = list(iter_windows(path, clip, clip_step=6))
    assert len(training) == len(serving) == 5  # one every 0.4 s, and one that ends with the file
    for number, window in enumerate(serving):
        clip_frames = training[0, number][0].numpy()
        assert np.array_equal(clip_frames, window.frames)
        if number < 4:
            seen_s = (clip_frames.mean(axis=(1, 2, 3)) - 20) / 100
            wanted_s = 0.4 * number + 0.2 * np.arange(4)
            assert np.abs(seen_s - wanted_s).max() <= 1 / fps + 0.01  # the frame on show at that time


def test_unknown_class_is_refused(videos):
    with pytest.raises(InputError, match="class 'jump' of the videos is not one of the 2 known"):
        dataset.label_indices(videos, ["sit", "stand", "pull", "push", "wave"][:2])
