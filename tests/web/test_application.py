from types import SimpleNamespace

from video_module.web.application import _functions
from video_module.web.examples import Examples
from video_module.web.limits import Limits
from video_module.web.page import build_page


def test_only_the_camera_is_a_stream():
    """The gate limits how many streams one address may start."""
    limits = Limits()
    predictor = SimpleNamespace(class_names=["wave"])
    service = SimpleNamespace(predictors={"nano": predictor}, storage=None, limits=limits)
    page, _ = build_page(service, examples=Examples(service, []))
    [camera] = [function for function in _functions(page).values() if function.is_stream]
    assert camera.inputs == ["image", "dropdown"]
