"""Compare how the models of several folds were trained."""

from collections.abc import Sequence
from typing import Any

from video_module.tables import pluralize

# Settings that may differ: the seed, those that only affect speed, and C, which a probe chooses in each fold.
_FREE = (
    *("seed", "batch_size", "checkpoint_activations", "compile", "deterministic", "save_every"),
    *("max_failed_share", "min_precision", "C"),
)
# Recordings are not divided, so the share of validation videos differs slightly between folds.
_SHARE_TOLERANCE = 0.05
_UNKNOWN = "not recorded"
_RECORDED = ("num_train_videos", "num_val_videos", "epoch", "program_version")


def combine_training(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the training of several folds: the settings that all share, and the values of each fold."""
    records = [result["training"] or {} for result in results]
    settings = [record.get("settings", {}) for record in records]
    return {
        **{key: [record.get(key) for record in records] for key in _RECORDED},
        "epoch_chosen_by": _epoch_chosen_by(records),
        "seed": [own.get("seed") for own in settings],
        "settings": {
            key: value
            for key, value in settings[0].items()
            if key not in _FREE and all(key in own and own[key] == value for own in settings)
        },
    }


def _epoch_chosen_by(records: Sequence[dict[str, Any]]) -> str | None:
    """Return how the epoch was chosen. None if unknown or different, and for probes, which have no epochs."""
    numbers = [record.get("num_val_videos") for record in records]
    if None in numbers or any(record["settings"].get("probe") for record in records):
        return None
    if all(numbers):
        return "validation videos"
    return None if any(numbers) else "last epoch"


def find_differences(results: Sequence[dict[str, Any]]) -> str | None:
    """List the settings that differ between the folds, with the value of each fold. None if all agree.

    Folds with unknown settings are left out.
    """
    records = [result["training"] for result in results if result["training"]]
    settings = [record["settings"] | {"program_version": record["program_version"]} for record in records]
    differences = []
    for key in dict.fromkeys(key for own in settings for key in own if key not in _FREE):
        values = [own.get(key, _UNKNOWN) for own in settings]
        if any(value != values[0] for value in values):
            # Lists, such as class weights, are too long to show
            shown = "" if any(isinstance(value, list) for value in values) else f" {', '.join(map(str, values))}"
            differences.append(f"{key}{shown}")
    shares = [_val_share(record) for record in records]
    if None not in shares and shares and max(shares) - min(shares) > _SHARE_TOLERANCE:
        differences.append(f"validation share {', '.join(f'{share:.0%}' for share in shares)}")
    return "; ".join(differences) or None


def _val_share(record: dict[str, Any]) -> float | None:
    num_train, num_val = record["num_train_videos"], record["num_val_videos"]
    return None if num_train is None else num_val / (num_train + num_val)


def describe_training(training: dict[str, Any]) -> str | None:
    """Describe what the models of all folds were trained on, and how the epoch was chosen. None if unknown."""
    settings = training["settings"]
    num_train, num_val = (count_videos(training[key]) for key in ("num_train_videos", "num_val_videos"))
    if settings.get("probe"):
        pairs = zip(training["num_train_videos"], training["num_val_videos"], strict=True)
        totals = [None if None in pair else sum(pair) for pair in pairs]
        return f"last layer fitted to {count_videos(totals) or 'an unknown number of'} videos"
    if "num_epochs" not in settings:
        return None
    text = f"trained for {pluralize(settings['num_epochs'], 'epoch')}"
    if num_train is None:
        return f"{text}; the number of training videos is not recorded"
    text += f" on {num_train} videos"
    if training["epoch_chosen_by"] == "validation videos":
        return f"{text}; {num_val} others chose the epoch"
    return f"{text}; the last epoch was kept" if training["epoch_chosen_by"] else text


def count_videos(numbers: Sequence[int | None]) -> str | None:
    """Format one number if it is equal for all folds, else the number of each. None if one is unknown."""
    if None in numbers:
        return None
    return " / ".join(f"{number:,}" for number in (numbers[:1] if len(set(numbers)) == 1 else numbers))
