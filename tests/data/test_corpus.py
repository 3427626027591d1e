"""Two hundred damaged copies of sound videos: whatever is in a file, it is read, or refused in one line."""

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from video_module.data.decoding import count_frames, iter_frames, read_frames
from video_module.data.records import probe_video
from video_module.errors import VideoError

NUM_FRAMES = 40
CODECS = {".avi": "mpeg4", ".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx"}
COPIES = 50  # of each container
TIME_LIMIT_S = 20


def write_busy_video(path: Path, codec: str) -> None:
    """A drifting noise pattern: no frame equals another, and each takes some bytes."""
    rng = np.random.default_rng(0)
    pattern = rng.integers(0, 256, (96, 128 + NUM_FRAMES, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 128, 96, "yuv420p", 600_000
        for number in range(NUM_FRAMES):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pattern[:, number : number + 128]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def flip_bits(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    damaged = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 30)):
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def truncate(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    return data[: int(rng.integers(1, len(data)))]


def zero_run(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    start, length = int(rng.integers(0, len(data))), int(rng.integers(16, len(data) // 4))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def swap_header(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    length = int(rng.choice([16, 64, 512, 2048]))
    return other[:length] + data[length:]


MUTATIONS = (flip_bits, truncate, zero_run, swap_header)


def examine(path: Path) -> tuple[str, int]:
    """How the readers take a file: (outcome, frames). Runs in a process of its own, which a decoder may take down."""
    try:
        num_frames, _ = count_frames(path)
    except VideoError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return "refused at once", 0
    if num_frames == 0:
        with pytest.raises(VideoError):
            next(iter_frames(path))
        return "no frame", 0
    try:
        decoded = list(iter_frames(path))
        assert len(decoded) == num_frames, "two readers disagree on the number of frames"
        read = read_frames(path, np.arange(num_frames))
        # FFmpeg's VP8 decoder fills what is damaged with what it finds in memory: there, reading twice differs too
        again = iter_frames(path) if path.suffix == ".webm" else decoded
        steady = [number for number, frame in enumerate(again) if np.array_equal(frame, decoded[number])]
        assert len(steady) == num_frames or path.suffix == ".webm"
        assert all(np.array_equal(decoded[n], read[n]) for n in steady), "two readers disagree on a frame"
    except VideoError as error:
        assert "midway" in str(error) or "does not decode" in str(error), error
        return "a frame fails", num_frames
    with pytest.raises(VideoError, match=f"only {num_frames} frames decode"):
        read_frames(path, [num_frames])
    try:
        probe_video(path)
    except VideoError:
        return "set aside by the split", num_frames
    return "whole" if num_frames == NUM_FRAMES else "nearly whole", num_frames


def test_damaged_files(tmp_path: Path):
    sound = {}
    for suffix, codec in CODECS.items():
        write_busy_video(tmp_path / f"sound{suffix}", codec)
        sound[suffix] = (tmp_path / f"sound{suffix}").read_bytes()
    others = dict(zip(sound, [*list(sound.values())[1:], sound[".avi"]], strict=True))
    files = list(tmp_path.glob("sound.*"))
    for number in range(COPIES * len(CODECS)):
        suffix = list(CODECS)[number % len(CODECS)]
        mutate = MUTATIONS[number // len(CODECS) % len(MUTATIONS)]
        files.append(tmp_path / f"{number:03}_{mutate.__name__}{suffix}")
        files[-1].write_bytes(mutate(sound[suffix], np.random.default_rng(number), others[suffix]))

    outcomes: Counter[tuple[str, str]] = Counter()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for file, examined in [(file, pool.submit(examine, file)) for file in files]:
            outcome, num_frames = examined.result(timeout=TIME_LIMIT_S)  # a crash or a hang is an error here
            assert num_frames <= NUM_FRAMES, f"{file.name}: {num_frames} frames of {NUM_FRAMES}: some are invented"
            if file.stem == "sound":
                assert outcome == "whole", file.name
            else:
                outcomes[file.stem.partition("_")[2], outcome] += 1
    assert sum(outcomes.values()) == COPIES * len(CODECS)
    for (mutation, outcome), count in sorted(outcomes.items()):
        print(f"{mutation:12} {outcome:24} {count:4}")
    kinds = {outcome for _, outcome in outcomes}
    assert {"whole", "refused at once", "set aside by the split"} <= kinds  # the corpus reaches each way to end
