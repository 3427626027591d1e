"""Tests of README and docs/: links, code blocks, flags, commands and the table of models."""

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest
from torchvision.models import get_model_weights

from tests.test_scripts import SCRIPTS
from video_module.models.cost import measure_cost
from video_module.models.registry import DEFAULT_MODEL, MODELS

ROOT = Path(__file__).parents[1]
SHOWN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*SHOWN, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
EXAMPLES = sorted(path for path in (ROOT / "examples").iterdir() if path.is_file())
BENCHMARKS = ("loader", "train", "gpu", "predict", "video", "zoo", "recipe", "probe")
# Flags of pip, pytest, torchrun and tests/web/load.py.
FOREIGN_FLAGS = {
    *("--dist", "--nproc_per_node", "--nnodes", "--rdzv_backend", "--rdzv_endpoint", "--shutdown_timeout"),
    "--requests",
}


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(text: str) -> list[str]:
    """Return the code blocks of a page, without diagrams and program output."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in ("bash", "python", "nginx")]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub generates for the headings."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(read(path)), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_are_valid(page):
    """Links and images must point to an existing file or folder, and anchors to an existing heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(read(page))):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_linked_from_readme():
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", read(ROOT / "README.md"))
    for page in PAGES[1:]:
        assert page.relative_to(ROOT).as_posix() in links


def is_part_of(code: str, example: Path) -> bool:
    return f"\n{code}" in f"\n{read(example)}"


@pytest.mark.parametrize("page", SHOWN, ids=lambda path: path.name)
def test_code_blocks_are_from_examples(page):
    for code in blocks(read(page)):
        assert any(is_part_of(code, example) for example in EXAMPLES), code


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_in_the_docs(example):
    assert any(is_part_of(code, example) for page in SHOWN for code in blocks(read(page)))


def test_packages_for_serving_have_the_bounds_of_requirements():
    known = read(ROOT / "requirements.txt").splitlines()
    packages = shlex.split(read(ROOT / "examples" / "install_serving.sh"), comments=True)
    bounded = [package for package in packages if re.search(r"[<>=]", package)]
    assert bounded
    for package in bounded:
        assert any(line.partition("#")[0].strip() == package for line in known), package


def help_texts() -> list[str]:
    """Return the --help output of every script."""
    packages = [("demo", []), ("benchmark", []), *(("benchmark", [name]) for name in BENCHMARKS)]
    calls = [(importlib.import_module(script).parse_args, []) for script in SCRIPTS]
    calls += [(importlib.import_module(f"video_module.{name}.__main__").main, words) for name, words in packages]
    texts = []
    for call, words in calls:
        with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit):
            call([*words, "--help"])
        texts.append(output.getvalue())
    return texts


def test_every_flag_exists():
    known = set(re.findall(r"--[a-z]\w+(?:-\w+)*", "\n".join(help_texts()))) | FOREIGN_FLAGS
    for page in PAGES:
        codes = [*re.findall(r"`([^`]+)`", without_blocks(read(page))), *blocks(read(page))]
        flags = {flag for code in codes for flag in re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", code)}
        assert flags <= known, f"{page.name}: {flags - known}"


def inline_commands() -> list[str]:
    """Return commands such as `python script.py …` from the text and tables, outside of code blocks."""
    codes = {" ".join(code.split()) for page in SHOWN for code in re.findall(r"`([^`]+)`", without_blocks(read(page)))}
    return sorted(code for code in codes if re.match(r"(python|torchrun) (.*\.py\b|-m video_module\.\w+ )", code))


# Required arguments that shortened commands may omit.
REQUIRED = {
    "run_model": ["--video_path", "v", "--model", "m"],
    "run_gradio": ["--model", "m"],
    "split_data": ["--input_dir", "v", "--splits_dir", "s"],
}


@pytest.mark.parametrize("command", inline_commands())
def test_commands_in_the_text_can_be_parsed(command):
    """Commands are parsed by their script; "…" stands for omitted arguments."""
    words = [word for word in shlex.split(command) if word not in ("…", "...")]
    if words[1] == "-m":
        name, arguments = f"{words[2]}.__main__", words[3:]
    else:
        script = next(position for position, word in enumerate(words) if word.endswith(".py"))
        name, arguments = Path(words[script]).stem, words[script + 1 :]
        if "…" in command or len(arguments) < 2:
            arguments = [*REQUIRED.get(name, []), *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(*[SystemExit] * ("--help" in arguments)):
        importlib.import_module(name).parse_args(arguments)


def test_table_of_models():
    """Costs must match measure_cost(), clips and weights the registry, and --num_clips torchvision's documentation."""
    [table] = re.findall(r"`--num_clips` of torchvision \|\n(.*?)\n\n", read(ROOT / "docs/models.md"), flags=re.DOTALL)
    rows = re.findall(r"^\| `(\w+)`(?: \(default\))? \| (.*) \|$", table, flags=re.MULTILINE)
    rows = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    assert list(rows) == list(MODELS)
    for name, (parameters, gmacs, clip, weights, views) in rows.items():
        spec, cost = MODELS[name], measure_cost(name)
        assert (parameters, gmacs) == (f"{cost.num_parameters / 1e6:.2f}", f"{cost.gmacs:.2f}")
        assert clip == f"{spec.clip.num_frames}x{spec.clip.crop}x{spec.clip.crop}"
        names = [f"`{weight}`" for weight in spec.weights] + ["a file"] * bool(spec.weights_files)
        assert weights == (", ".join(names) or "none")
        of_torchvision = () if spec.weights_url else spec.weights
        documented = {get_model_weights(name)[weight].meta["_docs"] for weight in of_torchvision}
        clips = {re.search(r"clips_per_video=(\d+)", text)[1] for text in documented}
        assert {views} == (clips or {""})
    assert f"`{DEFAULT_MODEL}` (default)" in table
