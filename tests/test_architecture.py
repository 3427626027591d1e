"""The arrows between rooms, as README draws them, and what serving must not import."""

import ast
import re
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "video_module"
BASE = {"background", "config", "devices", "errors", "files", "lettering", "machine", "scores", "tables"}
# room: rooms it may import when it is imported
ARROWS = {
    "data": {"data"},
    "models": {"models"},
    "engine": {"engine", "data", "models"},
    "report": {"report"},
    "inference": {"inference", "data", "models"},
    "web": {"web", "inference", "data", "report"},
    "demo": {"demo", "data"},
    "benchmark": {"benchmark", "data", "models", "engine", "inference", "report"},
}
PARSES_FLAGS = {"demo", "benchmark"}  # and the root scripts
# modules that stand between rooms
FURTHER_ARROWS = {
    PACKAGE / "inference" / "export.py": {"engine"},  # reads checkpoints
    PACKAGE / "report" / "attention.py": {"data", "inference", "models"},  # asks a network, and writes a video
}
WITHOUT_TORCH = [
    "video_module.config",
    "video_module.models.registry",
    *(
        f"video_module.data.{name}"
        for name in ("sampling", "decoding", "transforms", "drawing", "encoding", "splits", "audit", "thumbnails")
    ),
    *(f"video_module.data.{name}" for name in ("archives", "distribution", "fingerprint", "leaks")),
    *(
        f"video_module.inference.{name}"
        for name in ("predictor", "windows", "timeline", "overlay", "latency", "verification")
    ),
    "video_module.background",
    "video_module.data.capture",
    *(f"video_module.inference.{name}" for name in ("live", "watching", "sources", "outputs", "published")),
    "video_module.web.page",
    "video_module.web.server",
    "video_module.web.gate",
    *(
        f"video_module.report.{name}"
        for name in ("metrics", "statistics", "plots", "results", "folds", "comparison", "contact_sheet", "html")
    ),
]


def imported_rooms(file: Path) -> set[str]:
    """Rooms that a module imports at its top level."""
    rooms = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("video_module.")}
    return rooms


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows(file: Path):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = BASE | ARROWS.get(room, set()) | FURTHER_ARROWS.get(file, set())
    if room in PARSES_FLAGS:
        allowed = allowed | {"cli"}
    assert imported_rooms(file) <= allowed


def test_every_room_has_its_arrows():
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()} == set(ARROWS)


IMPORT_ALL = """
import importlib, sys, traceback
sys.modules["torch"] = None  # any import of it fails
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        print(name)
        traceback.print_exc()
print(*{"albumentations"} & set(sys.modules))
"""


def test_what_serves_imports_without_torch():
    """In one process, which is quicker than one for each."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [], result.stderr


def test_readme_draws_these_arrows():
    """Each arrow of the rooms' diagram is one of ARROWS, and each of ARROWS is an arrow or a way along them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    diagram = re.search(r"## How it is built\n\n```mermaid\n(.*?)```", readme, flags=re.DOTALL)[1]
    arrows: set[tuple[str, str]] = set()
    for line in re.sub(r"\[.*?\]", "", diagram).splitlines()[1:]:
        groups = [re.split(r"\s*&\s*", group.strip()) for group in line.split("-->")]
        arrows |= {pair for before, after in pairwise(groups) for pair in product(before, after)}
    of_parts = {"registry": "models", "export": "inference"}
    parts_further = {("engine", "inference")}
    for before, after in arrows:
        pair = of_parts.get(before, before), of_parts.get(after, after)
        if pair[0] != "config" and "scripts" not in pair:
            assert pair[0] in ARROWS[pair[1]] or pair in parts_further, pair

    def reaches(before: str, after: str) -> bool:
        return before == after or any(reaches(target, after) for source, target in arrows if source == before)

    for room, others in ARROWS.items():
        for other in others:
            assert reaches(other, room) or reaches("registry" if other == "models" else other, room), (other, room)
