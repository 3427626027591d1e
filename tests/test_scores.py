import numpy as np

from video_module import scores


def test_softmax_of_large_logits():
    result = scores.softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]], np.float32))
    assert result.dtype == np.float64
    np.testing.assert_allclose(result, [[0.5, 0.5], [0.0, 1.0]])


def test_video_score_is_the_mean_of_probabilities():
    views = scores.softmax(np.array([[8.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(scores.video_score(views), views.mean(axis=0))


def test_top_k_keeps_the_order_of_ties():
    assert scores.top_k(np.array([0.25, 0.5, 0.25]), ["a", "b", "c"], 5) == [
        {"label": "b", "score": 0.5},
        {"label": "a", "score": 0.25},
        {"label": "c", "score": 0.25},
    ]
