"""Suggest which videos are cut from the same recording. Suggestions should be checked by eye.

First, videos with similar backgrounds are grouped. Then videos with consecutive numbers in their names are joined if
their frames match in enough points, but only if the first groups show that such numbers mean something here. In both
steps size, frame rate, codec and encoder must be equal. So clips from one camera are found, but not clips from another
camera at the same event.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from tqdm import tqdm

from video_module.data import packets
from video_module.data.decoding import read_frames
from video_module.data.records import Rejected, VideoRecord
from video_module.errors import InputError
from video_module.files import replacing
from video_module.tables import pluralize

# The background of a video is the median of this many frames, in which moving people and objects disappear.
_NUM_FRAMES = 9

# Frames are resized to this short side. The background is then described by its edges in a grid of 32x32 cells and its
# colours in a grid of 16x16.
_SIDE, _EDGE_CELLS, _COLOUR_CELLS = 240, 32, 16

# The thresholds below were chosen on 300 surveillance clips of 46 recordings and 240 drawn clips of 20 scenes.
# docs/results.md ("Leaks and grouping") says how many pairs they find.

# Two groups are joined if the mean similarity of their pairs is at least this. Similarities are correlations of edges.
_ALIKE = 0.3

# The mean over all videos is subtracted before they are compared, because things that all of them have in common, such
# as a horizon or a person in the middle, say nothing. If all videos are from one recording, though, this removes
# everything. So the correlation without the subtraction counts too, reduced by this much.
_SHARED = 0.1

# Mean colours may differ by 10 of 256 levels. Each level beyond that reduces the similarity by 0.01.
_FREE_LEVELS, _COST_OF_LEVEL = 10, 0.01

# Numbers in names are used if at least 60 % of the videos with consecutive numbers fell into the same group by their
# backgrounds. Two neighbours are then joined if at least 20 points match.
_TELLING_SHARE, _FEWEST_POINTS = 0.6, 20

# The confidence of each kind of link. These values are cautious: on the surveillance clips, the only wrong links joined
# recordings of the same scene.
_CONFIDENCE = {"background": 0.98, "neighbour": 0.95}

# Relative difference between frame rates that count as equal. They are computed from timestamps, and so differ slightly
# between cuts of one recording.
_SAME_RATE = 0.02

# Metadata that names the camera or encoder.
_TAGS = ("encoder", "make", "model", "com.apple.quicktime.model")

# Most SIFT points per frame.
_NUM_POINTS = 200

# The similarities of all pairs of this many videos take 1 GB.
MOST_VIDEOS = 10_000


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The recording that a video seems to come from."""

    path: str
    source: str
    confidence: float | None
    """Estimated probability that the link to its group is right; None if the video is alone."""
    basis: str
    """Why it is in this group, as text."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The features by which videos are compared."""

    camera: tuple
    """Frame size, codec, and the tags of camera and encoder."""
    edges: np.ndarray
    """Edge directions of the background, float32 (2 * _EDGE_CELLS**2,), with mean 0 and length 1."""
    colours: np.ndarray
    """Colours of the background, float32 (3 * _COLOUR_CELLS**2,) in 0..255."""
    points: list[tuple[np.ndarray, np.ndarray]]
    """SIFT points of the first, middle and last frame: positions, float32 (n, 2), and descriptors, uint8 (n, 128)."""


def suggest_groups(root: Path, videos: Sequence[VideoRecord], *, num_workers: int) -> list[Suggestion]:
    """Suggest a group for each of `videos`, in their order. Their paths are relative to `root`."""
    if len(videos) > MOST_VIDEOS:
        raise InputError(f"{root}: {len(videos):,} videos; recordings can be suggested for at most {MOST_VIDEOS:,}")

    def look(video: VideoRecord) -> _Look:
        return _look_at(root / video.path, num_frames=video.num_frames)

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        seen = tqdm(pool.map(look, videos), total=len(videos), desc="comparing", unit="video", delay=0.5)
        looks = list(seen)
    if len(videos) < 2:
        return [_suggestion(video, "suggested_001", None) for video in videos]
    similarities = _similarities(looks, [video.fps for video in videos])
    groups = _cluster(similarities)
    joined = _join_neighbours(groups, similarities, looks, videos)
    sizes, names, found = Counter(groups.tolist()), {}, []
    for index, (video, group) in enumerate(zip(videos, groups.tolist(), strict=True)):
        name, link = names.setdefault(group, f"suggested_{len(names) + 1:03d}"), None
        if index in joined:
            other, num_points = joined[index]
            link = "neighbour", f"consecutive file names, {num_points} matching points: {videos[other].path}"
        elif sizes[group] > 1:
            mates = np.flatnonzero(groups == group)
            other = max(mates[mates != index], key=lambda mate: similarities[index, mate])
            link = "background", f"similar background ({similarities[index, other]:.2f}): {videos[other].path}"
        found.append(_suggestion(video, name, link))
    return found


def _suggestion(video: VideoRecord, source: str, link: tuple[str, str] | None) -> Suggestion:
    if link is None:
        text = "alone: no similar video found, but there may be one"
        return Suggestion(path=video.path, source=source, confidence=None, basis=text)
    kind, text = link
    return Suggestion(path=video.path, source=source, confidence=_CONFIDENCE[kind], basis=text)


def _look_at(path: Path, *, num_frames: int) -> _Look:
    def shrink(frame: np.ndarray) -> np.ndarray:
        scale = _SIDE / min(frame.shape[:2])
        size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
        return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)

    container, stream = packets.open_file(path)
    with container:
        context, tags = stream.codec_context, {**container.metadata, **stream.metadata}
        # Tag names may be upper or lower case.
        tags = {key.lower(): value for key, value in tags.items()}
        camera = (context.width, context.height, context.name, *(tags.get(name) for name in _TAGS))
    places = np.linspace(0, num_frames - 1, _NUM_FRAMES).round().astype(int)
    frames = read_frames(path, places, per_frame=shrink, num_frames=num_frames)
    background = np.median(frames, axis=0).astype(np.uint8)
    detector = cv2.SIFT_create(nfeatures=_NUM_POINTS)
    return _Look(
        camera=camera,
        edges=_edge_directions(cv2.cvtColor(background, cv2.COLOR_RGB2GRAY)),
        colours=cv2.resize(background, (_COLOUR_CELLS,) * 2, interpolation=cv2.INTER_AREA).astype(np.float32).ravel(),
        points=[_find_points(detector, frames[index]) for index in (0, _NUM_FRAMES // 2, -1)],
    )


def _edge_directions(grey: np.ndarray) -> np.ndarray:
    """Edge directions per cell, independent of brightness and contrast: gradients divided by their length."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 1.5)
    gradients = [cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1))]
    # The constant suppresses weak gradients, which are noise.
    length = np.hypot(*gradients) + 8
    cells = [cv2.resize(part / length, (_EDGE_CELLS,) * 2, interpolation=cv2.INTER_AREA) for part in gradients]
    values = np.stack(cells).ravel()
    values -= values.mean()
    return values / max(1e-6, float(np.linalg.norm(values)))


def _find_points(detector: cv2.SIFT, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points, descriptors = detector.detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None)
    places = np.array([point.pt for point in points], np.float32).reshape(-1, 2)
    # OpenCV returns whole numbers up to 255 as floats.
    return places, np.zeros((0, 128), np.uint8) if descriptors is None else descriptors.astype(np.uint8)


def _similarities(looks: Sequence[_Look], rates: Sequence[float]) -> np.ndarray:
    """Similarity of the backgrounds of each pair, float32 (n, n), about -1 to 1; -1 for different cameras."""
    edges = np.stack([look.edges for look in looks])
    own = edges - edges.mean(axis=0)
    own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-6)
    similarities = np.maximum(own @ own.T, edges @ edges.T - _SHARED)
    colours, rates = np.stack([look.colours for look in looks]), np.array(rates)
    cameras = np.unique([repr(look.camera) for look in looks], return_inverse=True)[1]
    # Row by row, because the colour differences of all pairs would not fit into memory.
    for row, look in enumerate(looks):
        levels = np.abs(colours - look.colours).mean(axis=1)
        similarities[row] -= _COST_OF_LEVEL * np.maximum(0, levels - _FREE_LEVELS)
        is_same = (cameras == cameras[row]) & (np.abs(rates - rates[row]) <= _SAME_RATE * rates[row])
        similarities[row, ~is_same] = -1
    # Clustering needs an exactly symmetric matrix.
    return np.minimum(similarities, similarities.T)


def _cluster(similarities: np.ndarray) -> np.ndarray:
    """Cluster the videos by the mean similarity between groups. Returns the group of each video, int64 (n,)."""
    from sklearn.cluster import AgglomerativeClustering

    distances = 1 - similarities
    np.fill_diagonal(distances, 0)
    # Average linkage, so that a single pair that is similar by chance does not join two groups.
    model = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=1 - _ALIKE
    )
    return model.fit_predict(distances)


def _join_neighbours(
    groups: np.ndarray, similarities: np.ndarray, looks: Sequence[_Look], videos: Sequence[VideoRecord]
) -> dict[int, tuple[int, int]]:
    """Join in place the groups of videos with consecutive names and matching points.

    Does nothing if the groups found so far show that consecutive names mean nothing here. Returns the links of the
    videos that were alone: {index: (index of the other video, number of matching points)}.
    """
    pairs = [pair for pair in _neighbours(videos) if similarities[pair] > -1]
    # Only pairs in which both videos already have a group can show whether consecutive names mean something.
    known = [pair for pair in pairs if all((groups == groups[index]).sum() > 1 for index in pair)]
    if not known or np.mean([groups[one] == groups[other] for one, other in known]) < _TELLING_SHARE:
        return {}
    joined = {}
    for one, other in pairs:
        if groups[one] == groups[other]:
            continue
        num_points = _num_shared_points(looks[one], looks[other])
        if num_points >= _FEWEST_POINTS:
            for index, mate in ((one, other), (other, one)):
                if (groups == groups[index]).sum() == 1:
                    joined[index] = (mate, num_points)
            groups[groups == groups[other]] = groups[one]
    return joined


def _neighbours(videos: Sequence[VideoRecord]) -> Iterator[tuple[int, int]]:
    """Pairs of videos in one folder whose names differ only in the last number, by one."""
    places = {}
    for index, video in enumerate(videos):
        path = PurePosixPath(video.path)
        if match := re.fullmatch(r"(.*?)(\d+)(\D*)", path.stem):
            places[path.parent, match[1], match[3], int(match[2])] = index
    for (*rest, number), index in places.items():
        if (following := places.get((*rest, number + 1))) is not None:
            yield index, following


def _num_shared_points(one: _Look, other: _Look) -> int:
    """Number of points that match after shifting, rotating and scaling, for the best pair of frames.

    The last frame of each video is compared with the first one of the other, and the middle frames with each other. So
    cuts of a moving camera are found as well.
    """
    return max(_num_matches(one.points[first], other.points[second]) for first, second in ((2, 0), (0, 2), (1, 1)))


def _num_matches(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> int:
    if min(len(one[0]), len(other[0])) < _FEWEST_POINTS:
        return 0
    # Lowe's ratio test, IJCV 2004
    matches = [
        best
        for best, second in cv2.BFMatcher().knnMatch(one[1].astype(np.float32), other[1].astype(np.float32), k=2)
        if best.distance < 0.8 * second.distance
    ]
    if len(matches) < _FEWEST_POINTS:
        return 0
    places = (one[0][[match.queryIdx for match in matches]], other[0][[match.trainIdx for match in matches]])
    cv2.setRNGSeed(0)
    _, fits = cv2.estimateAffinePartial2D(*places, method=cv2.RANSAC, ransacReprojThreshold=4)
    return 0 if fits is None else int(fits.sum())


def describe(found: Sequence[Suggestion]) -> str:
    """Summarise the suggestions and their limits."""
    sizes = Counter(item.source for item in found)
    num_alone = sum(size == 1 for size in sizes.values())
    return (
        f"{pluralize(len(found), 'video')} in {pluralize(len(sizes), 'suggested group')}, {num_alone} with a single "
        "video; found by similar backgrounds and consecutive file names, which may miss half of the pairs that share "
        "a recording: other cameras and moving cameras are not matched"
    )


def describe_agreement(found: Sequence[Suggestion], sources: Sequence[str]) -> str:
    """Compare the suggestions with known recordings, counted in pairs of videos."""

    def num_pairs(groups: Iterable[object]) -> int:
        return sum(size * (size - 1) // 2 for size in Counter(groups).values())

    suggested = [item.source for item in found]
    num_both = num_pairs(zip(suggested, sources, strict=True))
    return (
        f"of {pluralize(num_pairs(sources), 'pair')} of videos from one known recording, {num_both:,} share a "
        f"suggested group; so do {pluralize(num_pairs(suggested) - num_both, 'pair')} from different recordings"
    )


def torn_apart(found: Sequence[Suggestion], videos: Sequence[VideoRecord]) -> list[tuple[str, str]]:
    """Find the test videos whose suggested group is also in train or val, each with an example from there."""
    source_of = {item.path: item.source for item in found}
    elsewhere = {source_of[video.path]: f"{video.split}/{video.path}" for video in videos if video.split != "test"}
    return [
        (f"test/{video.path}", elsewhere[source_of[video.path]])
        for video in videos
        if video.split == "test" and source_of[video.path] in elsewhere
    ]


def describe_torn_apart(found: Sequence[Suggestion], splits: Sequence[Sequence[VideoRecord]]) -> str | None:
    """Return a warning about what torn_apart() finds in a split, or in all folds together. None if it finds nothing."""
    if not (torn := [pair for videos in splits for pair in torn_apart(found, videos)]):
        return None
    num_test = sum(video.split == "test" for videos in splits for video in videos)
    of_all = " of all folds" if len(splits) > 1 else ""
    return (
        f"{len(torn)} of {num_test} test videos{of_all} seem to come from recordings that are also in train or val "
        f"({torn[0][0]} and {torn[0][1]}, for example); --groups auto keeps them together, --suggest_groups shows them"
    )


def write_suggestions(path: Path, found: Sequence[Suggestion], rejected: Sequence[Rejected]) -> None:
    """Write the table for --groups, sorted by group, with rejected files last."""
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "source", "confidence", "basis"])
        for item in sorted(found, key=lambda item: (item.source, item.path)):
            confidence = "" if item.confidence is None else f"{item.confidence:g}"
            rows.writerow([item.path, item.source, confidence, item.basis])
        # --groups needs a row for every file, also for those that turn out not to decode
        rows.writerows([item.path, item.path, "", f"rejected: {item.reason}"] for item in rejected)
