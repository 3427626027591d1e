from pathlib import Path

import pytest

from video_module.config import ClipConfig
from video_module.data.records import VideoRecord
from video_module.engine.training_data import TrainingData


def video(label: str, source: str) -> VideoRecord:
    return VideoRecord(path=f"{label}/{source}.avi", label=label, source=source, num_frames=30, fps=30)


@pytest.mark.parametrize(
    ("val", "expected"),
    [
        ([("wave", "Film"), ("wave", "Film"), ("sit", "New")], "2 of 3 validation videos share a recording with train"),
        ([("sit", "Film"), ("wave", "New")], None),  # shared only across classes, as in official folds
    ],
)
def test_a_val_split_that_leaks_is_told_before_training(val, expected):
    data = TrainingData(
        train_dir=Path("train"),
        val_dir=Path("val"),
        clip=ClipConfig(num_frames=8, frame_stride=4, resize=72, crop=64),
        class_names=["sit", "wave"],
        train_videos=[video("wave", "Film"), video("sit", "Other")],
        val_videos=[video(label, source) for label, source in val],
    )
    first, *notes = str(data).splitlines()
    assert first == f"2 training and {len(val)} validation videos of 2 classes"
    assert [note.split(" within")[0] for note in notes] == ([f"note: {expected}"] if expected else [])
