"""Tests of which subpackages may import which others, and that serving does not import torch."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "video_module"
BASE = {"__version__", "background", "config", "devices", "errors", "files", "fonts", "machine", "scores", "tables"}
# Subpackage: those that it may import at module level.
ALLOWED = {
    "data": {"data"},
    "models": {"models"},
    "engine": {"engine", "data", "models"},
    "report": {"report"},
    "inference": {"inference", "data", "models"},
    "web": {"web", "inference", "data", "report"},
    "demo": {"demo", "data", "report"},
    "benchmark": {"benchmark", "data", "models", "engine", "inference", "report"},
}
PARSES_FLAGS = {"demo", "benchmark"}  # and the root scripts
# Exceptions for single modules.
EXCEPTIONS = {
    PACKAGE / "inference" / "export.py": {"engine"},  # reads checkpoints
    PACKAGE / "inference" / "explain.py": {"engine"},  # reads checkpoints
}
WITHOUT_TORCH = [
    "video_module.config",
    "video_module.models.registry",
    *(
        f"video_module.data.{name}"
        for name in ("sampling", "decoding", "transforms", "drawing", "encoding", "splits", "records", "thumbnails")
    ),
    *(f"video_module.data.{name}" for name in ("annotations", "archives", "distribution", "layout", "leaks")),
    *(f"video_module.data.{name}" for name in ("preparing", "segments")),
    *(
        f"video_module.inference.{name}"
        for name in ("predictor", "windows", "timeline", "overlay", "latency", "verification")
    ),
    "video_module.background",
    "video_module.data.capture",
    *(f"video_module.inference.{name}" for name in ("live", "watching", "inputs", "outputs", "published")),
    "video_module.web.page",
    "video_module.web.server",
    "video_module.web.application",
    "video_module.web.gate",
    *(f"video_module.report.{file.stem}" for file in sorted((PACKAGE / "report").glob("[!_]*.py"))),
]
REPORT_NEEDS = {"PIL", "jinja2", "matplotlib", "numpy"}  # and IPython, which every notebook has


def imported_subpackages(file: Path) -> set[str]:
    """Return the subpackages that a module imports at its top level."""
    subpackages = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        subpackages |= {name.split(".")[1] for name in names if name.startswith("video_module.")}
    return subpackages


def test_import_directions():
    forbidden = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        subpackage = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        allowed = BASE | ALLOWED.get(subpackage, set()) | EXCEPTIONS.get(file, set())
        if subpackage in PARSES_FLAGS:
            allowed = allowed | {"cli"}
        if subpackages := imported_subpackages(file) - allowed:
            forbidden[file.relative_to(PACKAGE).as_posix()] = subpackages
    assert forbidden == {}


def test_every_subpackage_is_listed():
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()} == set(ALLOWED)


def test_reports_need_no_model_or_video():
    """Reports are made from numbers, names and frames that the caller passes in."""
    for file in (PACKAGE / "report").glob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names.add(node.module)
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        packages = {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names)
        allowed = REPORT_NEEDS | {"video_module"} | ({"IPython"} if file.stem == "notebook" else set())
        assert packages <= allowed, file.name
        subpackages = {name.split(".")[1] for name in names if name.startswith("video_module.")}
        assert subpackages <= {"config", "errors", "files", "fonts", "report", "scores", "tables"}, file.name


def test_imported_packages_are_in_the_requirements():
    """A package must be listed even if another one depends on it."""
    modules = set()
    for file in [*ROOT.glob("*.py"), *PACKAGE.rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                modules.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
    scripts = {file.stem for file in ROOT.glob("*.py")}
    modules -= {*sys.stdlib_module_names, *scripts, "video_module", "IPython"}  # every notebook has IPython
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    declared = set(re.findall(r"^[\w-]+", text, flags=re.MULTILINE))
    packages = packages_distributions()
    for module in modules:
        assert {name.lower() for name in packages[module]} & declared, module


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


def test_serving_modules_import_without_torch():
    """All modules are imported in one process, which is faster than one process for each."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *WITHOUT_TORCH], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [], result.stderr
