"""What the page says, in English and Russian."""

LANGUAGES = ("en", "ru")

TEXTS = {
    "en": {
        "title": "# Action recognition in video",
        "intro": "Choose or drop a video and press the button: what happens in it, and when.",
        "model": "Model",
        "recognise": "Recognise",
        "actions": "Actions",
        "timeline": "Timeline",
        "time_axis": "time, s",
        "score_axis": "score",
        "no_video": "Choose a video first.",
        "bad_video": "This file cannot be read as a video. Try another one, such as .mp4 or .avi.",
        "scoring": "recognising",
        "drawing": "drawing",
    },
    "ru": {
        "title": "# Распознавание действий на видео",
        "intro": "Выберите или перетащите видео и нажмите кнопку: что на нём происходит и когда.",
        "model": "Модель",
        "recognise": "Распознать",
        "actions": "Действия",
        "timeline": "Шкала времени",
        "time_axis": "время, с",
        "score_axis": "вероятность",
        "no_video": "Сначала выберите видео.",
        "bad_video": "Этот файл не читается как видео. Попробуйте другой, например .mp4 или .avi.",
        "scoring": "распознавание",
        "drawing": "разметка",
    },
}


def choose_language(accept_language: str) -> str:
    """The first of LANGUAGES by preference in an Accept-Language header, such as `ru-RU,ru;q=0.9,en;q=0.8`."""
    preferences = []
    for position, item in enumerate(accept_language.split(",")):
        tag, _, quality = item.strip().partition(";q=")
        try:
            weight = float(quality) if quality else 1.0
        except ValueError:
            continue
        preferences.append((-weight, position, tag.lower().partition("-")[0]))
    return next((tag for _, _, tag in sorted(preferences) if tag in LANGUAGES), LANGUAGES[0])
