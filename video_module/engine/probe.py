"""Fit a last layer for a frozen network: multinomial logistic regression on its features, in seconds."""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path

import numpy as np

from video_module.config import TrainConfig
from video_module.data.dataset import flipped_labels, label_indices
from video_module.data.records import VideoRecord
from video_module.data.splits import assign_sources
from video_module.engine.calibration import Calibration, calibrate
from video_module.engine.features import LocatedVideo, compute_features
from video_module.engine.training_data import TrainingData
from video_module.errors import InputError
from video_module.scores import ScoreClips, log_loss, softmax, video_score
from video_module.tables import align

# Candidates for scikit-learn's C, half a decade apart, where each video has weight 1. A larger C fits more closely.
_STRENGTHS = tuple(float(f"{10**exponent:.1e}") for exponent in np.arange(-4, 1.01, 0.5))
# Used when the strength cannot be chosen, because no folds can be formed.
_DEFAULT_STRENGTH = 0.01
_MAX_FOLDS = 5
# Number of feature values from which several threads speed up the fit.
_MIN_THREADED = 2**23
# Random subsets of the videos averaged for each point of the learning curve.
_NUM_DRAWS = 3
# A smaller gain in accuracy is not worth filming more videos.
_MIN_GAIN = 0.01
# Most classes that are left out in turn. Each of them takes a fit to all other videos.
_MOST_LEFT_OUT = 10


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Videos, their labels and their features."""

    videos: list[VideoRecord]
    labels: np.ndarray
    """int64 (num_videos,)."""
    plain: list[np.ndarray]
    """Features of each video's clips, float32 (num_clips, num_features)."""
    mirrored: list[np.ndarray]
    """Features of the mirrored clips; an empty array if the class must not be mirrored."""
    class_names: list[str]

    @property
    def sources(self) -> list[str]:
        return [video.source for video in self.videos]


def load_examples(
    data: TrainingData,
    config: TrainConfig,
    path: Path,
    make_embedding: Callable[[], ScoreClips],
    *,
    network: str,
    num_workers: int,
) -> Examples:
    """Load or compute the features of all training and validation videos; see compute_features().

    Raises InputError if a class has no video.
    """
    videos = data.train_videos + data.val_videos
    labels = np.array(label_indices(videos, data.class_names))
    if lacking := set(range(len(data.class_names))) - set(labels.tolist()):
        name = data.class_names[min(lacking)]
        raise InputError(f"class {name!r} has no training video; add some, or remove the class from obj.names")
    kept = flipped_labels(data.class_names, config)
    roots = [data.train_dir] * len(data.train_videos) + [data.val_dir] * len(data.val_videos)
    located = [
        LocatedVideo(path=root / video.path, record=video, may_flip=label in kept)
        for root, video, label in zip(roots, videos, labels.tolist(), strict=True)
    ]
    plain, mirrored = compute_features(
        located, path, make_embedding, clip=data.clip, network=network, num_workers=num_workers
    )
    return Examples(videos=videos, labels=labels, plain=plain, mirrored=mirrored, class_names=data.class_names)


@dataclass(frozen=True, kw_only=True)
class Head:
    """A last layer for raw features, with the standardisation used during fitting folded in."""

    weight: np.ndarray
    """float64 (num_classes, num_features)."""
    bias: np.ndarray
    """float64 (num_classes,)."""

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features @ self.weight.T + self.bias


def fit_heads(
    examples: Examples, members: Sequence[int], strengths: Sequence[float], *, class_weights: Sequence[float] | None
) -> list[Head]:
    """Fit one head per strength (ascending) to the videos `members`, which must cover every class."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    parts = [np.concatenate([examples.plain[index], examples.mirrored[index]]) for index in members]
    counts = np.array([len(part) for part in parts])
    rows, labels = np.concatenate(parts), examples.labels[members]
    assert len(set(labels.tolist())) == len(examples.class_names), "a class has no video to fit on"
    mean, scale = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    scale[scale < 1e-6 * max(1e-12, scale.max())] = 1.0
    rows = ((rows - mean) / scale).astype(np.float32)
    # Each video has the same total weight, however many clips it has.
    weights = (np.ones(len(labels)) if class_weights is None else np.asarray(class_weights)[labels]) / counts
    model, heads = LogisticRegression(max_iter=300, warm_start=True), []
    # On small products, threads that wait for each other make the fit forty times slower.
    with warnings.catch_warnings(), threadpool_limits(1 if rows.size < _MIN_THREADED else None, user_api="blas"):
        # With a large C the fit may stop before it converges, which acts like a somewhat smaller C. That is harmless,
        # because the folds measure the head that comes out.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for strength in strengths:
            model.set_params(C=strength).fit(rows, np.repeat(labels, counts), np.repeat(weights, counts))
            weight, bias = model.coef_, model.intercept_
            if len(examples.class_names) == 2:
                # For two classes, scikit-learn stores only the difference of their logits.
                weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
            heads.append(Head(weight=weight / scale, bias=bias - weight @ (mean / scale)))
    return heads


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Held-out accuracy of heads fitted to fewer videos."""

    num_videos: int
    """Number of videos per class, or all of a class that has fewer."""
    hits: np.ndarray
    """Share of draws in which each video was classified correctly, float64 (num_videos,)."""

    @property
    def accuracy(self) -> float:
        return float(self.hits.mean())


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Cross-validated results: each video is scored by a head that was not fitted to its source."""

    num_folds: int
    logits: list[np.ndarray]
    """Logits of each video's unmirrored clips, float64 (num_clips, num_classes)."""
    curve: list[CurvePoint]
    """Points of the learning curve, from few videos to all."""
    sources: list[str]
    unknown: list[np.ndarray] | None = None
    """Probabilities of the clips of videos from up to _MOST_LEFT_OUT classes, by a head fitted without the video's
    class, (num_clips, num_classes - 1) each; None with two classes."""

    @cached_property
    def view_scores(self) -> list[np.ndarray]:
        return [softmax(logits) for logits in self.logits]

    def curve_table(self) -> str:
        sizes = [str(point.num_videos) for point in self.curve[:-1]] + [f"all ({self.curve[-1].num_videos})"]
        accuracies = [f"{point.accuracy:.3f}" for point in self.curve]
        return align([["videos per class", *sizes], ["accuracy", *accuracies]], left=(0,))

    def advice(self) -> str:
        """Say whether more videos would help, judging by the gain of the last doubling."""
        last = self.curve[-1]
        earlier = [point for point in self.curve if point.num_videos <= 0.6 * last.num_videos]
        if not earlier:
            return "too few videos to tell whether more would help; they almost always do"
        gains = last.hits - earlier[-1].hits
        gain, error = float(gains.mean()), 2 * _standard_error(gains, self.sources)
        sizes = f"{earlier[-1].num_videos} to {last.num_videos} videos per class"
        told = f"{sizes}: {gain:+.1%} accuracy (± {error:.1%}); more videos"
        if gain >= _MIN_GAIN:
            return f"{told} would help" if gain > error else f"{told} may help (the gain is within its error)"
        if gain + error < 2 * _MIN_GAIN:
            return f"{told} of this kind would hardly help; fine-tuning might (--weights with this model's file)"
        return f"{told} may help or not: there are too few to tell"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The head fitted to all videos, and its estimate from the folds."""

    head: Head
    strength: float
    estimate: Estimate | None
    """None if the videos cannot be divided into folds, for example if a class has a single source."""
    note: str
    """Reason for the lack of an estimate; empty if there is one."""

    def calibrate(self, labels: np.ndarray, *, min_precision: float) -> Calibration | None:
        """Fit temperature and threshold to the held-out scores of the folds; None without an estimate.

        The scores of the final head cannot be used, because it was fitted to all videos.
        """
        if self.estimate is None:
            return None
        return calibrate(self.estimate.view_scores, labels, min_precision=min_precision, unknown=self.estimate.unknown)


def fit_probe(examples: Examples, *, class_weights: Sequence[float] | None = None, seed: int = 0) -> Probe:
    """Choose the strength by cross-validation that keeps sources together, then fit a head to all videos."""
    every = range(len(examples.videos))
    folds, note = _folds(examples, seed=seed)
    strength, estimate = _DEFAULT_STRENGTH, None
    if folds is not None:
        sides = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
        heads = [fit_heads(examples, rest, _STRENGTHS, class_weights=class_weights) for rest, _ in sides]
        held_out = [_held_out(examples, sides, of_strength) for of_strength in zip(*heads, strict=True)]
        # Choose by log-loss rather than accuracy, in which several of the strengths often tie.
        losses = [log_loss(_video_scores(logits), examples.labels) for logits in held_out]
        best = int(np.argmin(losses))
        strength = _STRENGTHS[best]
        curve = _learning_curve(examples, sides, strength, class_weights=class_weights, seed=seed)
        all_videos = CurvePoint(num_videos=_typical_count(examples, sides), hits=_hits(held_out[best], examples.labels))
        estimate = Estimate(
            num_folds=len(sides),
            logits=held_out[best],
            curve=[*curve, all_videos],
            sources=examples.sources,
            unknown=_as_unknown(examples, strength, class_weights=class_weights),
        )
    [head] = fit_heads(examples, every, [strength], class_weights=class_weights)
    return Probe(head=head, strength=strength, estimate=estimate, note=note)


def _folds(examples: Examples, *, seed: int) -> tuple[np.ndarray | None, str]:
    """Assign each video to a fold, keeping sources together; returns (folds, "").

    If no assignment leaves videos of every class for each fit, returns (None, reason).
    """
    sources = {
        name: {video.source for video in examples.videos if video.label == name} for name in examples.class_names
    }
    fewest = min(sources, key=lambda name: len(sources[name]))
    for num_folds in range(min(_MAX_FOLDS, len(sources[fewest])), 1, -1):
        # assign_sources() requires a split of the name "train", so the first fold gets it.
        names = ["train", *map(str, range(1, num_folds))]
        fold_of = assign_sources(examples.videos, dict.fromkeys(names, 1 / num_folds), seed=seed)
        folds = np.array([names.index(fold_of[source]) for source in examples.sources])
        if all(len(set(folds[examples.labels == label])) > 1 for label in range(len(sources))):
            return folds, ""
    return None, (
        f"no accuracy estimate: all videos of class {fewest!r} come from one recording, so none can be left out for "
        "testing"
        if len(sources[fewest]) == 1
        else "no accuracy estimate: the recordings cannot be divided into folds that all contain every class"
    )


_Sides = list[tuple[np.ndarray, np.ndarray]]
"""Indices of the videos to fit to and of those left out, for each fold."""


def _held_out(examples: Examples, sides: _Sides, heads: Sequence[Head]) -> list[np.ndarray]:
    """Return the logits of each video's clips from the head that has not seen the video."""
    logits: list[np.ndarray] = [np.empty(0)] * len(examples.videos)
    for (_, left_out), head in zip(sides, heads, strict=True):
        for index in left_out:
            logits[index] = head.logits(examples.plain[index])
    return logits


def _as_unknown(
    examples: Examples, strength: float, *, class_weights: Sequence[float] | None
) -> list[np.ndarray] | None:
    """Return the scores of each class's videos from a head fitted without that class; None with two classes."""
    num_classes = len(examples.class_names)
    if num_classes < 3:
        return None
    scores = []
    for label in np.unique(np.linspace(0, num_classes - 1, min(num_classes, _MOST_LEFT_OUT)).round().astype(int)):
        rest = np.flatnonzero(examples.labels != label)
        others = Examples(
            videos=[examples.videos[index] for index in rest],
            labels=examples.labels[rest] - (examples.labels[rest] > label),
            plain=[examples.plain[index] for index in rest],
            mirrored=[examples.mirrored[index] for index in rest],
            class_names=examples.class_names[:label] + examples.class_names[label + 1 :],
        )
        weights = None if class_weights is None else np.delete(class_weights, label)
        [head] = fit_heads(others, range(len(rest)), [strength], class_weights=weights)
        scores += [softmax(head.logits(examples.plain[index])) for index in np.flatnonzero(examples.labels == label)]
    return scores


def _video_scores(logits: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([video_score(softmax(rows)) for rows in logits])


def _hits(logits: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    return (_video_scores(logits).argmax(axis=1) == labels).astype(np.float64)


def _typical_count(examples: Examples, sides: _Sides) -> int:
    """Return the median, over classes and folds, of the number of videos of a class that a head is fitted to."""
    return round(np.median([list(Counter(examples.labels[rest].tolist()).values()) for rest, _ in sides]))


def _learning_curve(
    examples: Examples, sides: _Sides, strength: float, *, class_weights: Sequence[float] | None, seed: int
) -> list[CurvePoint]:
    """Return the held-out accuracy with 2, 5, 10, 20, … videos per class, for sizes below the full number."""
    steps = (digit * 10**power for power in count() for digit in (1, 2, 5))
    sizes = [size for size in takewhile(lambda size: size < _typical_count(examples, sides), steps) if size > 1]
    points = []
    for size in sizes:
        hits = np.zeros(len(examples.videos))
        for draw in range(_NUM_DRAWS):
            rng = np.random.default_rng([seed, size, draw])
            heads = []
            for rest, _ in sides:
                order = rng.permutation(rest)
                few = np.concatenate([order[examples.labels[order] == k][:size] for k in np.unique(examples.labels)])
                heads += fit_heads(examples, few, [strength], class_weights=class_weights)
            hits += _hits(_held_out(examples, sides, heads), examples.labels)
        points.append(CurvePoint(num_videos=size, hits=hits / _NUM_DRAWS))
    return points


def _standard_error(values: np.ndarray, sources: Sequence[str]) -> float:
    """Return the standard error of the mean, treating all videos of a source as one draw."""
    _, owners = np.unique(np.asarray(sources), return_inverse=True)
    return float(np.sqrt((np.bincount(owners, weights=values - values.mean()) ** 2).sum()) / len(values))
