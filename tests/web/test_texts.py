import pytest

from video_module.web.texts import LANGUAGES, TEXTS, choose_language


def test_both_languages_say_everything():
    assert set(TEXTS) == set(LANGUAGES)
    assert set(TEXTS["en"]) == set(TEXTS["ru"])
    assert all(text for texts in TEXTS.values() for text in texts.values())


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("ru-RU,ru;q=0.9,en;q=0.8", "ru"),
        ("en-US,en;q=0.9,ru;q=0.8", "en"),
        ("de-DE,ru;q=0.4,en;q=0.7", "en"),
        ("de,fr;q=0.5", "en"),
        ("en;q=0.1, RU", "ru"),
        ("", "en"),
        ("*;q=oops,ru", "ru"),
    ],
)
def test_language_follows_the_browser(header, language):
    assert choose_language(header) == language
