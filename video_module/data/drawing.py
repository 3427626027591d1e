"""Draw clips of a stick figure's actions, for the demo, the tests and the examples of the web page.

Each recording ("source") has its own scene: background, camera shake, light, noise, and the figure's size, colours and
speed. `sit` and `stand`, `push` and `pull`, `lift` and `lower` are the same motion played forwards and backwards, so no
single frame can tell them apart.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from video_module.data.encoding import write_video
from video_module.errors import InputError

ACTIONS = ("jump", "pull", "push", "sit", "stand", "wave")
REVERSED_PAIRS = (("sit", "stand"), ("pull", "push"))
FURTHER_ACTIONS = ("clap", "kick", "lift", "lower")
"""Actions that the demo's networks are not trained on. They show learning from few videos."""
FURTHER_REVERSED_PAIRS = (("lift", "lower"),)
NAME_PREFIX = "Drawn_Film_"
HEIGHT, WIDTH = 180, 240
_FPS = 30.0
# Pixels of background beyond the frame on every side, to leave room for camera shake.
_MARGIN = 16
# Fractional bits of OpenCV's drawing coordinates. With whole pixels, slow motions would jump.
_SUBPIXEL = 4

_Point = tuple[float, float]


@dataclass(frozen=True)
class Scene:
    """What all clips of one recording share."""

    name: str
    background: np.ndarray
    """uint8 RGB (HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN, 3)."""
    noise: np.ndarray
    """int16 (HEIGHT * 2, WIDTH * 2, 3). A random part of it is added to each frame."""
    figure_color: tuple[int, int, int]
    object_color: tuple[int, int, int]
    figure_height: float
    """In pixels."""
    shake: float
    """Standard deviation of the camera's path, in pixels."""
    speed: float
    """At speed 1, an action takes about 30 frames."""
    floor: float
    """Height of the floor line, in pixels from the top."""
    quality: str


def make_scene(seed: int, number: int) -> Scene:
    """Return the scene of recording `number`. The same arguments give the same scene."""
    rng = np.random.default_rng([seed, number])
    height, width = HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN
    floor = rng.uniform(0.80, 0.90) * HEIGHT
    wall, ground = rng.uniform(150, 235, 3), rng.uniform(110, 190, 3)
    background = np.empty((height, width, 3), np.float32)
    shade = np.linspace(rng.uniform(0.85, 1.0), rng.uniform(0.85, 1.0), width, dtype=np.float32)[None, :, None]
    background[:] = wall * shade
    floor_row = int(floor) + _MARGIN
    background[floor_row:] = ground * shade
    # Pictures, windows and doors, in colours similar to the wall's
    for _ in range(rng.integers(3, 9)):
        left, top = rng.uniform(-20, width), rng.uniform(-15, floor_row - 20)
        size = rng.uniform(15, 70, 2)
        color = np.clip(wall + rng.uniform(-35, 35, 3), 0, 255).tolist()
        corner = (int(left), int(top)), (int(left + size[0]), int(min(top + size[1], floor_row)))
        cv2.rectangle(background, *corner, color, -1 if rng.random() < 0.7 else 3)
    noise_level = float(rng.choice([0.0, 4.0, 8.0]))
    # A dark colour of random hue, in front of a bright wall
    figure = rng.uniform(0, 40, 3)
    figure[rng.integers(3)] = rng.uniform(0, 110)
    return Scene(
        name=f"{NAME_PREFIX}{number:03d}",
        background=cv2.GaussianBlur(background, (0, 0), rng.uniform(0.5, 2.5)).clip(0, 255).astype(np.uint8),
        noise=rng.normal(0, max(noise_level, 0.5), (HEIGHT * 2, WIDTH * 2, 3)).astype(np.int16),
        figure_color=tuple(int(value) for value in figure),
        object_color=tuple(int(value) for value in rng.uniform(30, 140, 3)),
        figure_height=rng.uniform(0.60, 0.74) * HEIGHT,
        shake=float(rng.choice([0.0, 0.8, 2.0])),
        speed=rng.uniform(0.85, 1.25),
        floor=floor,
        quality={0.0: "goo", 4.0: "med", 8.0: "bad"}[noise_level],
    )


class _Pen:
    """Draw in the figure's coordinates: x towards where it faces, y up from the floor, in units of its height."""

    def __init__(self, image: np.ndarray, scene: Scene, origin: _Point, facing: int):
        self.image, self.scene, self.origin, self.facing = image, scene, origin, facing

    def pixel(self, point: _Point) -> tuple[int, int]:
        x = self.origin[0] + point[0] * self.facing * self.scene.figure_height
        y = self.origin[1] - point[1] * self.scene.figure_height
        return round(x * 2**_SUBPIXEL), round(y * 2**_SUBPIXEL)

    def line(self, points: Sequence[_Point], color: tuple[int, int, int], thickness: float = 0.055) -> None:
        width = max(2, round(thickness * self.scene.figure_height))
        for start, end in pairwise(points):
            cv2.line(self.image, self.pixel(start), self.pixel(end), color, width, cv2.LINE_AA, _SUBPIXEL)

    def disk(self, center: _Point, radius: float, color: tuple[int, int, int]) -> None:
        size = round(radius * self.scene.figure_height * 2**_SUBPIXEL)
        cv2.circle(self.image, self.pixel(center), size, color, -1, cv2.LINE_AA, _SUBPIXEL)

    def box(self, low: _Point, high: _Point, color: tuple[int, int, int]) -> None:
        corners = [low, (high[0], low[1]), high, (low[0], high[1])]
        points = np.array([self.pixel(corner) for corner in corners], np.int32)
        cv2.fillConvexPoly(self.image, points, color, cv2.LINE_AA, _SUBPIXEL)
        self.line([*corners, low], tuple(value // 2 for value in color), 0.02)

    def person(self, hip: _Point, neck: _Point, hands: Sequence[_Point], feet: Sequence[_Point], bend: float) -> None:
        """Draw a figure from its joints. Knees bend forwards by `bend`, elbows hang slightly."""
        color = self.scene.figure_color
        for foot in feet:
            knee = ((hip[0] + foot[0]) / 2 + bend, (hip[1] + foot[1]) / 2)
            self.line([hip, knee, foot], color)
        self.line([hip, neck], color, 0.075)
        for hand in hands:
            elbow = ((neck[0] + hand[0]) / 2, (neck[1] + hand[1]) / 2 - 0.03)
            self.line([(neck[0], neck[1] - 0.04), elbow, hand], color, 0.045)
        lean = (neck[0] - hip[0], neck[1] - hip[1])
        norm = max(1e-6, float(np.hypot(*lean)))
        self.disk((neck[0] + 0.11 * lean[0] / norm, neck[1] + 0.11 * lean[1] / norm), 0.085, color)


def _draw_sit(pen: _Pen, phase: float, _: float) -> None:
    """Phase 0 is standing upright, 1 is sitting on the chair."""
    seat = 0.27
    pen.box((-0.42, 0), (-0.14, seat), pen.scene.object_color)
    pen.box((-0.50, 0), (-0.42, 0.62), pen.scene.object_color)
    hip = (-0.24 * phase, 0.50 + (seat + 0.05 - 0.50) * phase)
    neck = (hip[0] + 0.16 * np.sin(np.pi * phase), hip[1] + 0.33)
    hands = [(hip[0] + 0.08 + 0.12 * phase, hip[1] + 0.04)] * 2
    pen.person(hip, neck, hands, [(0.02, 0), (0.10, 0)], 0.02 + 0.13 * phase)


def _draw_push(pen: _Pen, phase: float, _: float) -> None:
    """From phase 0 to 1, the figure walks forwards and pushes a box."""
    way = 1.1 * (phase - 0.5)
    stride = 0.16 * np.sin(4 * np.pi * phase)
    pen.box((way + 0.30, 0), (way + 0.70, 0.42), pen.scene.object_color)
    hip, neck = (way - 0.06, 0.46), (way + 0.10, 0.76)
    pen.person(
        hip, neck, [(way + 0.31, 0.40), (way + 0.31, 0.34)], [(way - 0.16 + stride, 0), (way - 0.16 - stride, 0)], 0.04
    )


def _draw_wave(pen: _Pen, phase: float, wobble: float) -> None:
    """The raised arm swings to and fro two and a half times."""
    angle = 0.75 * np.sin(5 * np.pi * phase + wobble)
    hand = (0.30 * np.sin(angle) + 0.06, 0.83 + 0.30 * np.cos(angle))
    pen.person((0, 0.50), (0, 0.83), [hand, (-0.12, 0.52)], [(-0.09, 0), (0.09, 0)], 0.0)


def _draw_jump(pen: _Pen, phase: float, wobble: float) -> None:
    """Two hops: crouch, leave the floor, land."""
    hop = np.sin(4 * np.pi * phase + wobble)
    height, crouch = 0.24 * max(0.0, hop), 0.10 * max(0.0, -hop)
    hip = (0, 0.50 - crouch + height)
    swing = 0.16 * hop
    hands = [(0.20, hip[1] + 0.22 + swing), (-0.20, hip[1] + 0.22 + swing)]
    pen.person(hip, (0, hip[1] + 0.33), hands, [(-0.09, height), (0.09, height)], crouch)


def _draw_clap(pen: _Pen, phase: float, wobble: float) -> None:
    """Both arms swing out to the sides and meet overhead, three times."""
    angle = 0.85 + 0.75 * np.sin(6 * np.pi * phase + wobble)
    reach, height = 0.34 * np.sin(angle), 0.80 + 0.34 * np.cos(angle)
    pen.person((0, 0.50), (0, 0.83), [(reach, height), (-reach, height)], [(-0.09, 0), (0.09, 0)], 0.0)


def _draw_kick(pen: _Pen, phase: float, wobble: float) -> None:
    """One leg swings forwards and back twice, balanced by the arms."""
    angle = 0.5 + 0.7 * np.sin(4 * np.pi * phase + wobble)
    foot = (0.48 * np.sin(angle), 0.50 - 0.48 * np.cos(angle))
    neck = (-0.08 * np.sin(angle), 0.83)
    pen.person((0, 0.50), neck, [(0.20 - 0.2 * angle, 0.60), (-0.24 + 0.2 * angle, 0.58)], [(-0.03, 0), foot], 0.02)


def _draw_lift(pen: _Pen, phase: float, _: float) -> None:
    """Phase 0 is bent down to a box on the floor, 1 is upright with the box overhead."""
    bent = 1 - phase
    hip = (-0.10 * bent, 0.50 - 0.12 * bent)
    neck = (hip[0] + 0.28 * bent, hip[1] + 0.33 - 0.12 * bent)
    side, bottom = 0.12, 0.98 * phase**1.5
    centre = 0.40 * bent + 0.20 * np.sin(np.pi * phase)
    pen.box((centre - side, bottom), (centre + side, bottom + 2 * side), pen.scene.object_color)
    pen.person(hip, neck, [(centre, bottom + side)] * 2, [(-0.09, 0), (0.09, 0)], 0.12 * bent)


@dataclass(frozen=True)
class _Action:
    """How an action is drawn at a phase, and how the phase changes over time."""

    draw: Callable[[_Pen, float, float], None]
    way: str
    """`forwards` or `backwards` once, or `repeated` from a random phase."""


_ACTIONS = {
    "jump": _Action(_draw_jump, "repeated"),
    "pull": _Action(_draw_push, "backwards"),
    "push": _Action(_draw_push, "forwards"),
    "sit": _Action(_draw_sit, "forwards"),
    "stand": _Action(_draw_sit, "backwards"),
    "wave": _Action(_draw_wave, "repeated"),
    "clap": _Action(_draw_clap, "repeated"),
    "kick": _Action(_draw_kick, "repeated"),
    "lift": _Action(_draw_lift, "forwards"),
    "lower": _Action(_draw_lift, "backwards"),
}
assert tuple(_ACTIONS) == ACTIONS + FURTHER_ACTIONS


def draw_frames(action: str, scene: Scene, *, num_frames: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the frames of one action in a scene, uint8 RGB (HEIGHT, WIDTH, 3).

    A motion that is not repeated begins and ends at random times near the start and the end.
    """
    if action not in _ACTIONS:
        raise InputError(f"no drawing of {action!r}; there are {', '.join(_ACTIONS)}")
    draw, way = _ACTIONS[action].draw, _ACTIONS[action].way
    facing = int(rng.choice([-1, 1]))
    origin = np.array([WIDTH * rng.uniform(0.42, 0.58), scene.floor + rng.uniform(0, 10)])
    duration = min(0.95, rng.uniform(0.75, 0.9) * 32 / (num_frames * scene.speed))
    begin = rng.uniform(0, 1 - duration)
    wobble = rng.uniform(0, 2 * np.pi) if way == "repeated" else 0.0
    path = np.zeros((num_frames, 2))
    if scene.shake:
        # The camera's path is smoothed noise. Smoothing leaves a quarter of the standard deviation; a factor of three
        # roughly restores it.
        path = cv2.GaussianBlur(rng.normal(size=path.shape), (1, 0), sigmaX=1, sigmaY=4)
        path = np.clip(3 * scene.shake * path, -_MARGIN, _MARGIN)
    for number in range(num_frames):
        time = number / max(1, num_frames - 1)
        phase = (time - begin) / duration
        if way != "repeated":
            # Start and end smoothly, with the cubic whose slope is zero at 0 and 1
            phase = float(np.clip(phase, 0, 1))
            phase = phase * phase * (3 - 2 * phase)
            phase = phase if way == "forwards" else 1 - phase
        left, top = (np.round(path[number]).astype(int) + _MARGIN).tolist()
        image = scene.background[top : top + HEIGHT, left : left + WIDTH].copy()
        draw(_Pen(image, scene, tuple(origin - path[number]), facing), phase, wobble)
        row, column = rng.integers(HEIGHT), rng.integers(WIDTH)
        grain = scene.noise[row : row + HEIGHT, column : column + WIDTH]
        yield cv2.add(image, grain, dtype=cv2.CV_8U)


def draw_dataset(
    output_dir: Path,
    *,
    actions: Sequence[str] = ACTIONS,
    num_sources: int = 30,
    clips_per_source: int = 3,
    seed: int = 0,
    num_workers: int = 1,
) -> list[Path]:
    """Draw `clips_per_source` clips of each action in every scene, `<output_dir>/<action>/<HMDB51-style name>.avi`.

    Every scene shows all actions, so all classes share the same recordings. Returns the files.
    """

    def draw_source(number: int) -> list[Path]:
        scene = make_scene(seed, number)
        paths = []
        for action in actions:
            label = list(_ACTIONS).index(action)
            for clip in range(clips_per_source):
                rng = np.random.default_rng([seed, number, label, clip])
                motion = "cm" if scene.shake else "nm"
                view = "fr" if _ACTIONS[action].way == "repeated" else rng.choice(["le", "ri"])
                name = f"{scene.name}_{action}_f_{motion}_np1_{view}_{scene.quality}_{clip}.avi"
                num_frames = round(rng.uniform(32, 40) / scene.speed)
                paths.append(output_dir / action / name)
                write_video(paths[-1], draw_frames(action, scene, num_frames=num_frames, rng=rng), fps=_FPS)
        return paths

    # OpenCV and the encoder release the interpreter lock, so the pool's threads run in parallel. OpenCV's own threads
    # would only compete with them. Their number applies to the whole process, so it is restored at the end.
    num_cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(max_workers=num_workers) as pool:
            drawn = tqdm(pool.map(draw_source, range(num_sources)), total=num_sources, desc="drawing", unit="scene")
            return [path for paths in drawn for path in paths]
    finally:
        cv2.setNumThreads(num_cv2_threads)


def draw_recording(
    path: Path, actions: Sequence[str], *, seed: int = 0, source: int = 0, seconds_each: float = 1.4
) -> None:
    """Draw a video of one scene in which `actions` follow each other, as a camera would record them."""
    scene = make_scene(seed, source)
    num_frames = round(seconds_each * _FPS)
    parts = (
        draw_frames(action, scene, num_frames=num_frames, rng=np.random.default_rng([seed, source, number]))
        for number, action in enumerate(actions)
    )
    write_video(path, chain.from_iterable(parts), fps=_FPS)
