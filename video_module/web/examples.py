"""The example videos of the page, drawn or from a folder, and their results."""

import base64
import html
import secrets
import shutil
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

from video_module.data.decoding import read_info
from video_module.data.drawing import ACTIONS, draw_recording
from video_module.data.labels import is_video
from video_module.data.thumbnails import read_thumbnails
from video_module.errors import InputError, VideoError
from video_module.web.answers import work_on
from video_module.web.api import Service
from video_module.web.jobs import Job
from video_module.web.limits import Limits, Refused, check_header
from video_module.web.texts import LANGUAGES, TEXTS

_THUMBNAIL = (90, 160)
_MOST = 12

# Time for an unfinished result to stop when the server does.
_GRACE_S = 3

# By the key of the example's name: its actions, seed and scene.
_RECORDINGS = {
    "example_wave": (("wave", "sit", "stand"), 7, 30),
    "example_push": (("push", "pull", "jump"), 7, 31),
    "example_all": (("jump", "push", "sit", "wave", "stand", "pull"), 7, 33),
}


@dataclass(frozen=True)
class Example:
    path: Path
    names: dict[str, str]
    """Titles by language."""
    thumbnail: str
    """A data URL."""


def draw_examples(folder: Path) -> list[Example]:
    """Draw a few videos of several actions each."""
    examples = []
    for key, (actions, seed, scene) in _RECORDINGS.items():
        path = folder / f"{'_'.join(actions)}.mp4"
        draw_recording(path, actions, seed=seed, source=scene)
        examples.append(Example(path, {language: TEXTS[language][key] for language in LANGUAGES}, _thumbnail(path)))
    return examples


def find_examples(folder: Path, target: Path, limits: Limits) -> list[Example]:
    """Copy the videos of a folder to `target`; file names become titles. Raises InputError if one is refused."""
    if not folder.is_dir():
        raise InputError(f"--examples {folder}: not a folder")
    paths = sorted(path for path in folder.iterdir() if path.is_file() and is_video(path))
    if not 0 < len(paths) <= _MOST:
        raise InputError(f"--examples {folder}: found {len(paths)} videos; expected 1 to {_MOST}")
    target.mkdir(parents=True, exist_ok=True)
    examples = []
    for path in paths:
        try:
            check_header(path, limits)
            thumbnail = _thumbnail(path)
        except (Refused, VideoError) as error:
            why = error.text(TEXTS["en"]) if isinstance(error, Refused) else error
            raise InputError(f"--examples: {path}: {why}") from None
        name = path.stem.replace("_", " ")
        copy = Path(shutil.copy(path, target))
        examples.append(Example(copy, dict.fromkeys(LANGUAGES, name), thumbnail))
    return examples


def _thumbnail(path: Path) -> str:
    info = read_info(path)
    # Headers may announce a few frames more than there are.
    num_frames = max(1, round(0.9 * info.estimated_num_frames))
    frame = read_thumbnails(path, num_video_frames=num_frames, num_thumbnails=1, box=_THUMBNAIL)[0]
    jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


class Examples:
    """The examples of each model and their results, which are computed once. Safe to use from several threads."""

    def __init__(self, service: Service, examples: Sequence[Example] | None) -> None:
        """If `examples` is None, models of the drawn actions get drawn examples, and other models none."""
        self._service = service
        models = list(service.predictors)
        if examples is None:
            models = [name for name in models if set(service.predictors[name].class_names) == set(ACTIONS)]
            examples = draw_examples(service.storage.examples) if models else []
        self._of = dict.fromkeys(models, examples)
        self._answers: dict[tuple[str, Path, str], str] = {}
        self.is_preparing = False

    def of(self, model: str) -> Sequence[Example]:
        """The examples of a model; empty if it has none or does not exist."""
        return self._of.get(model, [])

    def boxes(self, model: str, language: str) -> str:
        """The examples of a model as HTML buttons."""
        if not self.of(model):
            return ""
        buttons = "".join(
            f'<button type="button" data-example="{number}"><img src="{example.thumbnail}" alt="">'
            f"<span>{html.escape(example.names[language])}</span></button>"
            for number, example in enumerate(self.of(model))
        )
        return f'<h2>{TEXTS[language]["examples"]}</h2><div class="examples">{buttons}</div>'

    def known_answer(self, model: str, example: Example, language: str) -> str | None:
        return self._answers.get((model, example.path, language))

    def answer(self, model: str, example: Example, *, language: str, visitor: str) -> Generator[str, None, str]:
        """Yield the progress and return the result of an example, both as HTML. Raises Refused."""
        key = model, example.path, language
        if key not in self._answers:
            folder = self._service.storage.examples / secrets.token_hex(8)
            folder.mkdir(parents=True)

            def compute(job: Job) -> Iterator[str]:
                found = yield from work_on(
                    self._service, example.path, job=job, model=model, language=language, folder=folder
                )
                title = TEXTS[language]["example_title"].format(name=example.names[language])
                self._answers.setdefault(key, f'<p class="example-title">{html.escape(title)}</p>{found}')

            try:
                with self._service.jobs.join(visitor) as job, closing(compute(job)) as steps:
                    for status in steps:
                        if key in self._answers:  # another visitor clicked on it, too, and was first
                            break
                        yield status
            finally:
                # Unless the result links to the files in it, because this was cancelled or another visitor was first.
                if folder.name not in self._answers.get(key, ""):
                    shutil.rmtree(folder, ignore_errors=True)
        return self._answers[key]

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Compute what visitors see first, each model's first example in each language, until the block ends."""
        is_over = threading.Event()
        worker = threading.Thread(target=self._prepare, args=(is_over,), daemon=True)
        self.is_preparing = True
        worker.start()
        try:
            yield
        finally:
            is_over.set()
            # The server must not wait long for a slow model, and deletes the files of an unfinished result anyway.
            worker.join(_GRACE_S)

    def _prepare(self, is_over: threading.Event) -> None:
        try:
            for model, examples in self._of.items():
                for language in LANGUAGES if examples else ():
                    with closing(self.answer(model, examples[0], language=language, visitor="")) as steps:
                        for _ in steps:
                            if is_over.is_set():
                                return
                            time.sleep(0)
        except Refused:  # the server is closing
            pass
        finally:
            self.is_preparing = False
