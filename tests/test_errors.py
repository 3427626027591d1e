import pytest

from video_module.errors import hide_secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:pa55word@10.0.0.1:554/a?x=1: lost", "rtsp://***@10.0.0.1:554/a?x=1: lost"),
        ("RTSP://us%40er:p@55:word@host/a", "RTSP://***@host/a"),
        ("rtsp://user:pa/55?w#ord@host/a", "rtsp://***@host/a"),
        ("rtsp://pa55word@host/a", "rtsp://***@host/a"),
        ("http://host/a?user=me&password=pa55word&channel=1", "http://host/a?user=me&password=***&channel=1"),
        ("http://host/user=me&pwd=pa55word", "http://host/user=me&pwd=***"),
        ("a rtsp://u:pa55word@h/x and http://u:pa55word@h/y", "a rtsp://***@h/x and http://***@h/y"),
    ],
)
def test_secrets_in_urls_are_hidden(text, shown):
    assert hide_secrets(text) == shown
    assert "pa55word" not in shown and "55:word" not in shown


@pytest.mark.parametrize(
    "text", ["rtsp://10.0.0.1:554/a", "rtsp://host:554/live@hd", "a@b.avi: key=1", "http://h/x.mp4"]
)
def test_other_text_is_not_changed(text):
    assert hide_secrets(text) == text
