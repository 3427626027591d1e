"""Published results on HMDB51, and whether a result can be compared with them."""

from typing import Any

from video_module.report.results import list_names

_MEAN = "mean of the 3 official splits"
# Method, HMDB51 top-1 in percent, protocol. No Video Swin number on the official splits has been published.
# docs/evaluation.md names the papers.
PUBLISHED = (
    ("C3D, Sports-1M", "51.6", _MEAN),
    ("R(2+1)D RGB, K400", "74.5", _MEAN),
    ("I3D RGB, ImageNet + K400", "74.8", _MEAN),
    ("I3D two-stream (RGB + flow), K400", "80.9", _MEAN),
    ("VideoMAE ViT-B, K400", "73.3", _MEAN),
    ("MVD ViT-B, K400", "76.4-79.7", _MEAN),
    ("VideoMAE V2-g", "88.1", _MEAN),
)
# Numbers of videos in each official fold of HMDB51.
_NUM_TRAIN_VIDEOS, _NUM_TEST_VIDEOS = 3570, 1530


def why_not_comparable(combined: dict[str, Any]) -> str | None:
    """Return why a summary of folds cannot be compared with published numbers, or None if it can."""
    if combined["protocol"] != "hmdb51":
        return f"the published numbers are for the official folds of HMDB51, these for protocol {combined['protocol']}"
    if sorted(combined["folds"]) != [1, 2, 3]:
        folds = " and ".join(map(str, sorted(combined["folds"])))
        return f"the published numbers are means of folds 1, 2 and 3, this one of {folds}"
    training = combined["training"]
    per_fold = zip(
        *(combined["folds"], combined["num_videos"], combined["leaks"]),
        *(training["num_train_videos"], training["num_val_videos"]),
        strict=True,
    )
    for fold, num_videos, leak, num_train, num_val in per_fold:
        if num_videos != _NUM_TEST_VIDEOS:
            return f"fold {fold} was tested on {num_videos:,} of its {_NUM_TEST_VIDEOS:,} test videos"
        if leak == "allowed":
            return f"fold {fold} was tested with --allow_leak"
        if num_train is not None and (total := num_train + num_val) != _NUM_TRAIN_VIDEOS:
            return f"fold {fold} was trained on {total:,} of its {_NUM_TRAIN_VIDEOS:,} training videos"
    leaks = zip(combined["folds"], combined["leaks"], strict=True)
    if unknown := [f"fold {fold}" for fold, leak in leaks if leak == "unknown"]:
        return f"the training videos of {list_names(unknown)} are unknown"
    return None


def format_published(combined: dict[str, Any], *, name: str, views: str) -> list[str]:
    """Format the published numbers as a table, with the mean of `combined`, called `name`, in the last line."""
    top1 = combined["figures"]["video_top1"]
    own = (f"{name} (here)", f"{top1['mean']:.1%} ± {top1['sd']:.1%}".replace("%", ""), f"{_MEAN}, {views}")
    rows = [*PUBLISHED, own]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    title = "HMDB51 top-1, percent (± sample standard deviation of the three folds: their spread, not an error bar)"
    lines = [f"  {method:{widths[0]}}  {figure:>{widths[1]}}  {protocol}" for method, figure, protocol in rows]
    return [title, *lines]
