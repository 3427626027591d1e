from types import SimpleNamespace

import gradio as gr
import pytest

from video_module.web.handlers import Handlers
from video_module.web.limits import Limits


@pytest.mark.parametrize("data", [None, "number", 7, [], {}, {"number": "0"}, {"number": 5}, {"number": True}])
def test_a_click_with_bad_data_selects_no_example(data):
    """The data of the event comes from the browser and cannot be trusted."""
    service = SimpleNamespace(storage=None, limits=Limits())
    handlers = Handlers(service, SimpleNamespace(of=lambda model: ["an example"]))
    assert handlers._clicked("nano", gr.EventData(None, data)) is None
    assert handlers._clicked("nano", gr.EventData(None, {"number": 0})) == "an example"
