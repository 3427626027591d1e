import re
from html.parser import HTMLParser

import numpy as np
import pytest

from video_module.config import ClipConfig
from video_module.report import html, metrics
from video_module.report.contact_sheet import Strip
from video_module.report.results import count_views

EVIL = '<b>&"x"</b>'
NAMES = [EVIL, "stand", "ёлка"]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """What a browser would make of the file: its text, the addresses it asks for, its tags in balance."""

    def __init__(self, text: str):
        super().__init__()
        self.text, self.addresses, self.open, self.tags = "", [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def made_figures() -> dict:
    """Of 12 videos in 2 of 3 classes; 4 of the first are taken for the second."""
    labels = np.repeat([0, 1], 6)
    scores = np.tile([0.7, 0.2, 0.1], (12, 1))
    scores[2:] = [0.2, 0.7, 0.1]
    recall = {EVIL: 2 / 6, "stand": 1.0, "ёлка": None}
    edges = np.linspace(0, 1, 16).tolist()
    counts, values = [0] * 15, [None] * 15
    counts[10] = 12
    by_bin = {"edges": edges, "counts": counts, "confidence": [*values[:10], 0.7, *values[11:]]}
    figures = {
        "video_top1": 8 / 12,
        "video_top5": 1.0,
        "clip_top1": 0.6,
        "mean_class_accuracy": 2 / 3,
        "macro_f1": 0.6,
        "log_loss": 0.775,
        "ece": 0.03,
        "num_videos": 12,
        "num_clips": 144,
        "num_sources": 6,
        "num_resamples": 2000,
        "interval_note": "with only 6 recordings, the true intervals are wider",
        "per_class": {
            name: {
                "precision": None if value is None else 0.6,
                "recall": value,
                "f1": value,
                "support": 6 * (value is not None),
            }
            for name, value in recall.items()
        },
        "reliability": {**by_bin, "accuracy": [*values[:10], 8 / 12, *values[11:]]},
        "temperature": 1.0,
        "ece_before_temperature": 0.03,
        "reliability_before_temperature": {**by_bin, "accuracy": [*values[:10], 0.4, *values[11:]]},
        "min_score": 0.3,
        "num_answers": 12,
        "answer_precision": 8 / 12,
        "most_confused": [{"label": EVIL, "prediction": "stand", "count": 4, "share": 4 / 6}],
        "by_tag": {"camera motion": {"moving": {"num_videos": 12, "video_top1": 8 / 12}}},
        "num_tagged_videos": 12,
        "protocol": "hmdb51",
        "fold": 2,
        "train_overlap": None,
        "train_overlap_note": None,
        "views": {"sampling": "uniform", "num_clips": 4, "num_crops": 3},
        "clip": ClipConfig(num_frames=8, frame_stride=4, resize=72, crop=64).to_dict(),
        "split_digest": "d7c326fae8c38265",
        "model": "swin3d_nano",
        "weights": "none",
        "precision": "fp32",
        "checkpoint": "a & b/<x>.pth",
        "command": 'python test_model.py --checkpoint "a & b/<x>.pth"',
    }
    shares = ("video_top1", "video_top5", "clip_top1", "mean_class_accuracy", "macro_f1", "log_loss", "ece")
    figures["intervals"] = {key: [figures[key] - 0.1, figures[key] + 0.1] for key in shares}
    figures["matrix"] = metrics.confusion_matrix(scores.argmax(axis=1), labels, 3)
    return figures


def strips() -> list[Strip]:
    frames = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    path = f"{EVIL}/a'<script>alert(1)</script>.avi"
    return [Strip(path=path, label=EVIL, prediction="stand", score=0.71, label_score=0.19, frames=frames)]


def written(tmp_path, **changes) -> Page:
    figures = made_figures() | changes
    html.write_report(
        tmp_path / "report.html", figures, matrix=figures.pop("matrix"), class_names=NAMES, strips=strips()
    )
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_it_is_one_file_that_asks_for_nothing(tmp_path):
    page = written(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert page.open == []  # every tag is closed
    pictures = [address for address in page.addresses if address.startswith("data:image/")]
    assert len(pictures) == 5  # matrix, classes, calibration, tags, one video
    targets = {address for address in page.addresses if not address.startswith("data:")}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(address.startswith("#") and f'id="{address[1:]}"' in text for address in targets)
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(text) < 1_000_000


def test_the_figures_and_where_it_fails_are_told(tmp_path):
    text = written(tmp_path).text
    for expected in (
        "0.667",
        "95 % interval 0.567 to 0.767",
        "hmdb51, fold 2, digest d7c326fae8c38265",
        "12 videos from 6 recordings, 3 classes",
        "4 clips x 3 crops: 144 views",
        "With only 6 recordings, the true intervals are wider.",
        "8 frames of 64 × 64, 4 apart",
        "guessing: 1.099",
        'label <b>&"x"</b> 19%, predicted stand 71%',
    ):
        assert expected in text


def test_names_are_text_and_never_markup(tmp_path):
    page = written(tmp_path)
    assert page.tags.count("script") == 1  # ours
    assert page.text.count(EVIL) >= 4
    assert 'python test_model.py --checkpoint "a & b/<x>.pth"' in page.text
    assert "ёлка" in page.text


@pytest.mark.parametrize("is_leak", [True, False])
def test_what_the_test_shares_with_training_is_said_as_in_the_terminal(tmp_path, is_leak):
    note = "527 test videos come from 149 recordings in the model's train and val splits"
    overlap = {"num_sources": 149, "num_videos": 527, "num_clips": 0, "is_leak": is_leak}
    text = written(tmp_path, train_overlap=overlap, train_overlap_note=note).text
    assert note in text
    assert ("too good" in text) == is_leak
    unknown = "X.pth does not record its training videos, so leaks cannot be detected"
    assert unknown in written(tmp_path, train_overlap=None, train_overlap_note=unknown).text


def test_weights_and_a_clean_test_are_said(tmp_path):
    clean = {"num_sources": 0, "num_videos": 0, "num_clips": 0, "by_name_alone": False, "is_leak": False}
    text = written(tmp_path, train_overlap=clean, weights="KINETICS400_V1", precision="bf16").text
    assert "from KINETICS400_V1, tested in bf16" in text
    assert "none of these videos, none of their recordings" in text
    assert "none of these videos" not in written(tmp_path, train_overlap=None).text


@pytest.mark.parametrize(("num_videos", "num_clips", "is_said"), [(10, 120, False), (10, 87, True)])
def test_short_videos_give_fewer_views_and_that_is_said(num_videos, num_clips, is_said):
    views = {"sampling": "uniform", "num_clips": 4, "num_crops": 3, "clip_step": None}
    text = count_views({"views": views, "num_videos": num_videos, "num_clips": num_clips})
    assert text.startswith(f"{num_clips} views")
    assert ("(4 clips x 3 crops; short videos are scored once)" in text) == is_said
    windows = {"sampling": "windows", "num_clips": None, "num_crops": 1, "clip_step": 8}
    assert count_views({"views": windows, "num_videos": 2, "num_clips": 1234}) == "1,234 views"


def test_what_is_not_known_is_left_out(tmp_path):
    keys = made_figures()["intervals"]
    page = written(
        tmp_path,
        intervals=dict.fromkeys(keys),
        interval_note=None,
        by_tag=None,
        protocol=None,
        fold=None,
        split_digest=None,
        most_confused=[],
        views={"sampling": "windows", "clip_step": 14, "num_crops": 1},
        window_mean_class_accuracy=0.4321,
    )
    assert "0.432" in page.text
    assert "no interval" in page.text
    assert "folder without split.json" in page.text
    assert "windows every 14 frames x 1 crop:" in page.text
    assert "No video was mistaken for another class." in page.text
    assert "Recording" not in page.text
    assert "None" not in page.text


def test_the_same_results_give_the_same_file(tmp_path):
    written(tmp_path)
    first = (tmp_path / "report.html").read_bytes()
    written(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == first


def test_calibration_is_shown_without_the_models_temperature_too(tmp_path):
    page = written(tmp_path, temperature=1.4, ece_before_temperature=0.21, num_answers=9, answer_precision=7 / 9)
    assert len([address for address in page.addresses if address.startswith("data:image/")]) == 6
    assert "temperature of 1.40" in page.text and "0.210" in page.text
    assert "9 of 12 videos are scored 0.30 or more, and 78 % of these answers" in " ".join(page.text.split())
