from pathlib import Path

import pytest

from video_module.engine.progress import Progress, describe_choice


def test_best_epoch_is_by_accuracy_then_loss():
    progress = Progress()
    rows = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.7, 0.85)]
    kept = [
        progress.append({"epoch": number, "val_top1": top1, "val_loss": loss})
        for number, (top1, loss) in enumerate(rows, start=1)
    ]
    assert kept == [True, True, True, False, False]
    assert progress.best_epoch == 3


def test_patience_ends_a_run():
    progress = Progress()
    for number, top1 in enumerate((0.5, 0.7, 0.6, 0.7), start=1):
        assert not progress.is_over(num_epochs=9, patience=2)
        progress.append({"epoch": number, "val_top1": top1, "val_loss": 1.0})
    assert progress.is_over(num_epochs=9, patience=2)
    assert not progress.is_over(num_epochs=9, patience=0)
    assert progress.is_over(num_epochs=4, patience=0)


@pytest.mark.parametrize(
    ("num_videos", "num_epochs", "expected"),
    [
        (0, 5, "no validation videos: keeping the last epoch"),
        (
            60,
            5,
            "; with 60 validation videos, val top-1 can be off by 0.12 (95 % interval)",
        ),
        (60, 1, "* marks the best epoch so far, saved as x.pth"),
        (200, 5, "* marks the best epoch so far, saved as x.pth"),
    ],
)
def test_a_choice_among_epochs_is_described(num_videos, num_epochs, expected):
    text = describe_choice(num_videos, num_epochs, Path("x.pth"))
    assert expected in text
    assert ("looks better" in text) == ("looks better" in expected)
