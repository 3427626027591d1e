"""What a notebook shows while work goes on. Needs IPython, which comes with ipykernel (requirements-dev.txt)."""

from types import SimpleNamespace

import pytest

from video_module.report import curves, style
from video_module.report.notebook import LiveCurves

pytestmark = pytest.mark.slow
pytest.importorskip("IPython", reason="IPython is not installed (requirements-dev.txt)")


def progress(num_epochs: int) -> SimpleNamespace:
    epochs = list(range(1, num_epochs + 1))
    falling, rising = [1 / epoch for epoch in epochs], [1 - 1 / epoch for epoch in epochs]
    logs = {"epoch": epochs, "train_loss": falling, "val_loss": falling, "train_top1": rising, "val_top1": rising}
    return SimpleNamespace(logs=logs, best_epoch=num_epochs)


def test_each_epoch_takes_the_place_of_the_one_before(monkeypatch):
    shown = []

    def display(picture, *, display_id):
        assert display_id is True
        shown.append(("new", picture.data))
        return SimpleNamespace(update=lambda other: shown.append(("in its place", other.data)))

    monkeypatch.setattr("IPython.display.display", display)
    show = LiveCurves()
    for num_epochs in (1, 2, 3):
        show(progress(num_epochs))
    assert [how for how, _ in shown] == ["new", "in its place", "in its place"]
    last = progress(3)
    assert shown[-1][1] == style.to_png(curves.draw_curves(last.logs, best_epoch=3))
    assert len({picture for _, picture in shown}) == 3
