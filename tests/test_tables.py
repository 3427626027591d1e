import pytest

from video_module.tables import pluralize, round_duration


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "clip", "0 clips"), (1, "epoch", "1 epoch"), (2, "class", "2 classes"), (1200, "clip", "1,200 clips")],
)
def test_pluralize(number, noun, text):
    assert pluralize(number, noun) == text


@pytest.mark.parametrize(("seconds", "text"), [(8.44, "8.4 s"), (90, "1.5 min"), (5_399, "90.0 min"), (8_640, "2.4 h")])
def test_round_duration(seconds, text):
    assert round_duration(seconds) == text
