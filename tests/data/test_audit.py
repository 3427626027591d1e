import pytest

from video_module.data import audit
from video_module.data.audit import SharedSources, shared_sources


def test_counts_within_and_across_classes():
    train = [("wave", "Film"), ("wave", "Film"), ("run", "Other"), ("sit", "Alone")]
    test = [
        ("wave", "Film"),  # same class
        ("wave", "Film"),
        ("run", "Film"),  # another class
        ("sit", "Other"),
        ("sit", "New"),
    ]
    assert shared_sources(train, test) == SharedSources(
        sources_within_class=1, test_clips_within_class=2, sources_across_classes=2, test_clips_across_classes=2
    )


def test_nothing_shared():
    assert shared_sources([("a", "x")], [("a", "y"), ("b", "z")]) == SharedSources(0, 0, 0, 0)


TRAINED = {
    "train_sources": {audit.hash_source("Film"), audit.hash_source("a/1.avi")},
    "train_clips": {audit.hash_clip("a/1.avi"), audit.hash_clip("wave/Film_wave_0.avi")},
}


@pytest.mark.parametrize(
    ("video", "protocol", "expected"),
    [
        (("run/Film_run_3.avi", "Film"), "grouped", (1, 1, 0, True)),
        (("run/Film_run_3.avi", "Film"), "hmdb51", (1, 1, 0, False)),  # across classes, as the official folds do
        (("Wave it/Film_wave_0.mp4", "Film"), "hmdb51", (1, 1, 1, True)),
        (("b/1.avi", "Other"), "grouped", (0, 0, 1, False)),  # numbered anew in each class: no clip in common
        (("b/1.avi", "b/1.avi"), None, (0, 0, 1, True)),  # but without split.json names are all there is
        (("b/2.avi", "b/2.avi"), None, (0, 0, 0, False)),
    ],
)
def test_what_counts_as_a_leak(video, protocol, expected):
    overlap = audit.train_overlap([video], **TRAINED, protocol=protocol, official=protocol == "hmdb51")
    assert (overlap.num_sources, overlap.num_videos, overlap.num_clips, overlap.is_leak) == expected


def test_what_is_not_recorded_is_unknown():
    unrecorded = {"protocol": None, "official": False}
    assert audit.train_overlap([("a/1.avi", "s")], train_sources=(), train_clips=(), **unrecorded) is None
    older = audit.train_overlap([("a/1.avi", "s")], train_sources={"x"}, train_clips=(), **unrecorded)
    assert older.num_clips is None
    assert "themselves" not in str(older)


def test_clips_of_hmdb51_stay_small():
    clips = sorted({audit.hash_clip(f"class {number % 51}/clip {number}.avi") for number in range(3570)})
    assert len(clips) == 3570
    assert len(str(clips)) < 60_000
