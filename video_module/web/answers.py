"""Process one video for the page: wait for its turn, score it, and write the files for the visitor."""

import html
import math
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from video_module.files import write_json
from video_module.inference import timeline
from video_module.inference.outputs import write_annotations
from video_module.inference.overlay import iter_write_annotated
from video_module.inference.predictor import VideoPrediction
from video_module.web.api import NUM_CLASSES_SHOWN, Service
from video_module.web.jobs import Job
from video_module.web.limits import check_header
from video_module.web.result import result_html
from video_module.web.texts import TEXTS
from video_module.web.work import LimitedReader, score_within, work_size

SHOW_EVERY_S = 0.3
"""How often the waiting time on the page is updated."""

# A handler can only be cancelled where it yields. While it draws a video, it yields this many times.
_NUM_PAUSES = 50


def work_on(
    service: Service, path: str | Path, *, job: Job, model: Any, language: str, folder: Path
) -> Generator[str, None, str]:
    """Recognise a video and write the files of the result to `folder`.

    Yields the progress and returns the result, both as HTML. Raises Refused.
    """
    texts = TEXTS[language]
    prediction = yield from _predict(service, path, model, job, texts)
    segments = timeline.find_segments(prediction, service.config)
    files = yield from _write_files(service, prediction, segments, folder, model, job, language)
    job.is_done = True
    return result_html(
        prediction,
        segments,
        files=files,
        config=service.config,
        texts=texts,
        name_of=service.name_of(language),
    )


def status_html(text: str, share: float | None = None) -> str:
    """A line of text, with a progress bar if `share` (0 to 1) is known."""
    text = html.escape(text)
    bar = "" if share is None else f'<progress value="{share:.3f}" aria-label="{text}"></progress>'
    return f'<div class="status">{text}{bar}</div>'


def _predict(
    service: Service, path: str | Path, model: Any, job: Job, texts: dict[str, str]
) -> Generator[str, None, VideoPrediction]:
    predictor, info = service.model(model), check_header(path, service.limits)
    job.size, job.kind = work_size(info), f"annotated video, {predictor.summary()}"
    while not job.start_within(SHOW_EVERY_S):
        yield status_html(_waiting_text(job, texts))
    pace = _Pace(texts["scoring"], texts)
    yield pace.show(0, 1)
    windows, reader = [], LimitedReader(path, service.limits, check=lambda: job.check(service.limits))
    for scored, done, total in score_within(predictor, reader, info):
        windows += scored
        yield pace.show(done, total)
    return predictor.prediction_of(reader, windows)


def _waiting_text(job: Job, texts: dict[str, str]) -> str:
    wait_s, num_before = job.wait_s, job.num_before
    if wait_s is None:
        return texts["waiting_live"].format(num_before=num_before)
    return texts["waiting"].format(num_before=num_before, seconds=math.ceil(wait_s))


def _write_files(
    service: Service,
    prediction: VideoPrediction,
    segments: list[timeline.Segment],
    folder: Path,
    model: Any,
    job: Job,
    language: str,
) -> Generator[str, None, list[tuple[str, Path]]]:
    """Write the annotated video and the other downloads; returns them as result_html() expects them."""
    stem, config, texts = prediction.path.stem, service.config, TEXTS[language]
    pause, pace = max(1, prediction.num_frames // _NUM_PAUSES), _Pace(texts["drawing"], texts)
    files = [("annotated_video", folder / f"{stem}_annotated.mp4")]
    # The page has a timeline of its own, so none is drawn into the video.
    drawing = iter_write_annotated(
        files[0][1], prediction, segments, name_of=service.name_of(language), has_strip=False
    )
    with closing(drawing):
        for done in drawing:
            job.check(service.limits)
            if done % pause == 0:
                service.storage.check_space(folder)
                yield pace.show(done, prediction.num_frames)
    # Visitors see the name of their file, not its path on the server.
    named = replace(prediction, path=Path(prediction.path.name))
    architecture = service.model(model).model
    content = timeline.to_json(named, segments, model=architecture, k=NUM_CLASSES_SHOWN, config=config)
    table = folder / f"{stem}_segments.csv"
    if write_annotations(table, [(named.path.name, content["segments"])]):
        files.append(("segments_table", table))
    vtt, windows, whole = (folder / f"{stem}{suffix}" for suffix in (".vtt", ".csv", ".json"))
    timeline.write_vtt(vtt, segments)
    timeline.write_csv(windows, prediction)
    write_json(whole, content)
    return [*files, ("subtitles", vtt), ("windows_table", windows), ("whole_json", whole)]


class _Pace:
    """Shows the progress of one step and the time left."""

    def __init__(self, what: str, texts: dict[str, str]) -> None:
        self._what, self._texts = what, texts
        self._begin, self._first = time.monotonic(), 0

    def show(self, done: int, total: int) -> str:
        share, elapsed_s = done / max(1, total), time.monotonic() - self._begin
        text = f"{self._what}, {share:.0%}"
        left_s = elapsed_s / done * (total - done) if done else 0.0
        if elapsed_s > 0.5 and left_s >= 0.5:
            text += self._texts["seconds_left"].format(seconds=math.ceil(left_s))
        return status_html(text, share)
