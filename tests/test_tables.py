import pytest

from video_module.tables import pluralize


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [(0, "clip", "0 clips"), (1, "epoch", "1 epoch"), (2, "class", "2 classes"), (1200, "clip", "1,200 clips")],
)
def test_counts_in_sentences(number, noun, text):
    assert pluralize(number, noun) == text
