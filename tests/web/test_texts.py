import re
from pathlib import Path

import pytest

from video_module.web import limits
from video_module.web.texts import LANGUAGES, TEXTS, choose_language

WEB = Path(limits.__file__).parent


def gaps(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_all_texts():
    assert set(TEXTS) == set(LANGUAGES)
    assert set(TEXTS["en"]) == set(TEXTS["ru"])
    for key, text in TEXTS["en"].items():
        assert text and TEXTS["ru"][key]
        assert gaps(text) == gaps(TEXTS["ru"][key]), key


def test_every_text_is_used():
    source = "".join(path.read_text(encoding="utf-8") for path in WEB.glob("*.py") if path.name != "texts.py")
    assert [key for key in TEXTS["en"] if f'"{key}"' not in source] == []


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
def test_language_is_chosen_by_the_accept_language_header(header, language):
    assert choose_language(header) == language
