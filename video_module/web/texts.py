"""What the page says, in English and Russian."""

LANGUAGES = ("en", "ru")

TEXTS = {
    "en": {
        "title": "Action recognition in video",
        "intro": "What happens in a video, and when.",
        "limits": "Up to {max_file_mb} MB and {max_seconds} s. What you send is deleted when you leave the page, at "
        "the latest {keep_minutes} minutes after its last use.",
        "file_tab": "Video",
        "live_tab": "Live",
        "upload_tab": "Upload",
        "camera_tab": "Record",
        "examples": "Examples",
        "model": "Model",
        "known": "Actions that the model knows",
        "recognise": "Recognise",
        "cancel": "Cancel",
        "whole_video": "Mean of the whole video",
        "timeline": "Timeline",
        "time_axis": "time, s",
        "score_axis": "score",
        "downloads": "Downloads",
        "uncertain": "(uncertain)",
        "speed": "Frame skip",
        "speed_info": "1: every frame, at the video's own speed; higher: faster, and fewer windows are scored",
        "start": "Start",
        "stop": "Stop",
        "live_file_tab": "File",
        "live_camera_tab": "Camera",
        "no_label_yet": "watching …",
        "scoring": "recognising",
        "drawing": "drawing",
        "seconds_left": "{what}, {seconds} s left",
        "error_title": "Error",
        "no_video": "Choose a video first.",
        "damaged": "Frames of this video that are lost or damaged: {num_frames}. The answer rests on the others.",
        "no_times": "This file tells no times; {fps:g} frames/s are assumed.",
        "bad_video": "This file cannot be read as a video. Try another one, such as .mp4 or .avi.",
        "gone": "This upload has been deleted meanwhile. Please send it again.",
        "too_long": "This video is longer than {max_seconds} s. Please cut it to that length.",
        "too_many_frames": "This video has more than {max_frames} frames. Please cut it, or lower its frame rate.",
        "too_large_frames": "The frames of this video are {width} x {height}; {max_width} x {max_height} is the most.",
        "too_large_file": "This file is larger than {max_file_mb} MB.",
        "bad_upload": "This upload could not be read. Please send one file.",
        "storage_full": "The server has no room for more files just now. Please try again in a few minutes.",
        "too_large_request": "This request is too large.",
        "busy": "The server is busy, {waiting} are waiting. Please try again in a minute.",
        "unknown_model": "There is no model of this name; there are: {models}.",
        "bad_number": "top_k must be a whole number of at least 1.",
        "no_links": "Links are not fetched. Please upload the file.",
        "bad_picture": "This picture from the camera cannot be read.",
        "sign_in": "Please sign in first.",
        "language": "en",
        "waiting": "{num_before} before you, about {seconds} s",
        "sign_in_title": "Sign in",
        "user_name": "Name",
        "password": "Password",
        "sign_out": "Sign out",
        "wrong_password": "This name or password is wrong.",
        "too_many_attempts": "Too many wrong attempts. Please try again in {seconds} s.",
        "foreign": "Requests from other pages are not answered.",
        "bad_request": "This request cannot be understood.",
        "empty_file": "This file is empty.",
        "bad_suffix": "Files of this kind ({suffix}) are not taken. Please send a video, such as .mp4 or .avi.",
        "too_slow_upload": "This upload is too slow. Please try again.",
        "too_many_uploads": "{most} files are on their way from your address already. Please wait for them.",
        "too_many_jobs": "{most} of your videos are waiting already. Please wait for them.",
        "too_many_pixels": "This video has too many pixels, more than {max_gigapixels} x 10^9 in all its frames. "
        "Please cut it, or make its frames smaller.",
        "too_slow": "The work on this video took longer than {max_work_s} s and was ended. Please cut the video, or "
        "make its frames smaller.",
        "closing": "The server is being shut down. Please try again later.",
    },
    "ru": {
        "title": "Распознавание действий на видео",
        "intro": "Что происходит на видео и когда.",
        "limits": "До {max_file_mb} МБ и {max_seconds} с. Присланное удаляется, когда вы уходите со страницы, самое "
        "позднее через {keep_minutes} мин после последнего использования.",
        "file_tab": "Видео",
        "live_tab": "Вживую",
        "upload_tab": "Загрузить",
        "camera_tab": "Записать",
        "examples": "Примеры",
        "model": "Модель",
        "known": "Действия, которые знает модель",
        "recognise": "Распознать",
        "cancel": "Отменить",
        "whole_video": "В среднем по всему видео",
        "timeline": "Шкала времени",
        "time_axis": "время, с",
        "score_axis": "вероятность",
        "downloads": "Скачать",
        "uncertain": "(неясно)",
        "speed": "Пропуск кадров",
        "speed_info": "1: каждый кадр, со скоростью видео; больше: быстрее, но оценивается меньше окон",
        "start": "Начать",
        "stop": "Остановить",
        "live_file_tab": "Файл",
        "live_camera_tab": "Камера",
        "no_label_yet": "смотрю …",
        "scoring": "распознавание",
        "drawing": "разметка",
        "seconds_left": "{what}, осталось {seconds} с",
        "error_title": "Ошибка",
        "no_video": "Сначала выберите видео.",
        "damaged": "Потерянных или повреждённых кадров в этом видео: {num_frames}. Ответ основан на остальных.",
        "no_times": "В этом файле нет меток времени; принято {fps:g} кадров/с.",
        "bad_video": "Этот файл не читается как видео. Попробуйте другой, например .mp4 или .avi.",
        "gone": "Этот файл тем временем удалён. Пришлите его ещё раз.",
        "too_long": "Это видео длиннее {max_seconds} с. Обрежьте его до этой длины.",
        "too_many_frames": "В этом видео больше {max_frames} кадров. Обрежьте его или уменьшите частоту кадров.",
        "too_large_frames": "Кадры этого видео {width} x {height}, а можно не больше {max_width} x {max_height}.",
        "too_large_file": "Этот файл больше {max_file_mb} МБ.",
        "bad_upload": "Присланное не читается. Пришлите один файл.",
        "storage_full": "На сервере сейчас нет места для новых файлов. Попробуйте через несколько минут.",
        "too_large_request": "Этот запрос слишком велик.",
        "busy": "Сервер занят, в очереди {waiting}. Попробуйте через минуту.",
        "unknown_model": "Модели с таким именем нет; есть: {models}.",
        "bad_number": "top_k должно быть целым числом не меньше 1.",
        "no_links": "По ссылкам ничего не загружается. Пришлите сам файл.",
        "bad_picture": "Этот снимок с камеры не читается.",
        "sign_in": "Сначала войдите.",
        "language": "ru",
        "waiting": "перед вами {num_before}, примерно {seconds} с",
        "sign_in_title": "Вход",
        "user_name": "Имя",
        "password": "Пароль",
        "sign_out": "Выйти",
        "wrong_password": "Имя или пароль неверны.",
        "too_many_attempts": "Слишком много неудачных попыток. Попробуйте через {seconds} с.",
        "foreign": "Запросы с других страниц не принимаются.",
        "bad_request": "Этот запрос непонятен.",
        "empty_file": "Этот файл пуст.",
        "bad_suffix": "Файлы такого вида ({suffix}) не принимаются. Пришлите видео, например .mp4 или .avi.",
        "too_slow_upload": "Файл передаётся слишком медленно. Попробуйте ещё раз.",
        "too_many_uploads": "С вашего адреса уже передаются файлы: {most}. Дождитесь их.",
        "too_many_jobs": "Ваших видео уже ждёт: {most}. Дождитесь их.",
        "too_many_pixels": "В этом видео слишком много пикселей, больше {max_gigapixels} x 10^9 во всех кадрах. "
        "Обрежьте его или уменьшите кадры.",
        "too_slow": "Работа над этим видео заняла больше {max_work_s} с и прервана. Обрежьте видео или уменьшите "
        "кадры.",
        "closing": "Сервер завершает работу. Попробуйте позже.",
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


def texts_for(accept_language: str | None) -> dict[str, str]:
    """The texts in the language of a request, by its Accept-Language header."""
    return TEXTS[choose_language(accept_language or "")]
