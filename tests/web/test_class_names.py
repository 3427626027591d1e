import pytest

from video_module.errors import InputError
from video_module.web.class_names import read_translations

CLASSES = ("wave", "sit")


def test_class_names_are_read_per_language(tmp_path):
    (tmp_path / "names.csv").write_text(
        "\ufeffclass,ru,en\nwave,машет,\n\nsit,«садится, сидит»,sitting down\n", "utf-8"
    )
    with pytest.raises(InputError, match="line 4: 4 cells; expected 3"):
        read_translations(tmp_path / "names.csv", CLASSES)
    (tmp_path / "names.csv").write_text('class,ru,en\nwave,машет,\nsit,"садится, сидит",sitting down\n', "utf-8")
    assert read_translations(tmp_path / "names.csv", CLASSES) == {
        "ru": {"wave": "машет", "sit": "садится, сидит"},
        "en": {"sit": "sitting down"},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns class"),
        ("class\nwave\n", "expected the columns class"),
        ("class,fr\nwave,fait signe\n", "one or more of en, ru"),
        ("class,ru\nrun,бежит\n", "line 2: no model has a class 'run'"),
        ("class,ru\nsit,сидит\nsit,садится\n", "line 3: class 'sit' is listed twice"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "names.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_translations(tmp_path / "names.csv", CLASSES)
