"""Drawn videos, so that the page has something to show before anyone brings a video."""

from pathlib import Path

from video_module.data.drawing import draw_recording

# actions of each, the seed and the scene
_RECORDINGS = {
    "wave_sit_stand.mp4": (("wave", "sit", "stand"), 7, 30),
    "push_pull_jump.mp4": (("push", "pull", "jump"), 7, 31),
    "all_actions.mp4": (("jump", "push", "sit", "wave", "stand", "pull"), 7, 33),
}


def draw_examples(folder: Path) -> list[Path]:
    """Draw a few recordings of several actions each, as .mp4: browsers show them as pictures that play."""
    paths = []
    for name, (actions, seed, scene) in _RECORDINGS.items():
        paths.append(folder / name)
        draw_recording(paths[-1], actions, seed=seed, source=scene)
    return paths
