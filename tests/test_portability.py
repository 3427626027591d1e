"""Tests that the code does not depend on features missing on Windows and macOS, as far as Linux can tell."""

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import run_model
import split_data
import test_model
import train_model
from video_module import machine
from video_module.engine.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(ROOT.glob("*.py"))
SOURCES = [*SCRIPTS, *sorted((ROOT / "video_module").rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

_MODULES = "crypt curses fcntl grp nis ossaudiodev posix pty pwd readline resource spwd syslog termios tty"
_OF_OS = """
chown chroot confstr copy_file_range ctermid eventfd fchdir fchown fork forkpty fpathconf fstatvfs getegid geteuid
getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid killpg lchown lockf login_tty major
memfd_create minor mkfifo mknod nice openpty pathconf pidfd_open pipe2 posix_fadvise posix_fallocate posix_spawn
posix_spawnp pread preadv pwrite pwritev readv sched_getaffinity sched_getscheduler sched_setaffinity sched_yield
sendfile setegid seteuid setgid setgroups setns setpgid setpriority setregid setresuid setreuid setsid setuid splice
statvfs sync sysconf sysconf_names tcgetpgrp tcsetpgrp ttyname uname unshare wait wait3 wait4 waitid writev
WEXITSTATUS WIFEXITED WIFSIGNALED WIFSTOPPED WNOHANG WTERMSIG O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_SYNC
"""
_OF_SIGNAL = """
SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG
SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ alarm getitimer pause pthread_kill pthread_sigmask setitimer
siginterrupt sigpending sigtimedwait sigwait sigwaitinfo
"""
MISSING_MODULES = set(_MODULES.split())
MISSING_NAMES = {
    "os": set(_OF_OS.split()),
    "signal": set(_OF_SIGNAL.split()),
    "time": {"tzset", "clock_gettime", "clock_settime"},
    "select": {"poll", "epoll", "kqueue"},
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
}
# A condition that contains one of these guards the names inside it.
GUARDS = ("hasattr", "ON_WINDOWS", "os.name", "sys.platform", "platform.system")


def parse(file: Path) -> ast.Module:
    """Return the syntax tree, with a `parent` attribute on each node."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node
    return tree


def is_guarded(node: ast.AST) -> bool:
    """Return whether a node is inside a condition on the system, or inside a try that handles its absence."""
    while node := getattr(node, "parent", None):
        tested = [node.test] if isinstance(node, ast.If | ast.IfExp) else node.generators if is_loop(node) else []
        if any(guard in ast.unparse(test) for test in tested for guard in GUARDS):
            return True
        if isinstance(node, ast.Try) and any(
            handler.type and {"ImportError", "AttributeError"} & set(ast.unparse(handler.type).strip("()").split(", "))
            for handler in node.handlers
        ):
            return True
    return False


def is_loop(node: ast.AST) -> bool:
    return isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp | ast.DictComp)


def missing_names(tree: ast.AST) -> list[str]:
    """Return the modules and names missing on Windows that are used without a guard."""
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.partition(".")[0] in MISSING_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module.partition(".")[0] in MISSING_MODULES:
                names = [node.module]
            names += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if alias.name in MISSING_NAMES.get(node.module, ())
            ]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [ast.unparse(node)] * (node.attr in MISSING_NAMES.get(node.value.id, ()))
        if names and not is_guarded(node):
            found += names
    return found


def test_listed_names_exist_on_linux():
    """A misspelt name would never be found."""
    if sys.platform != "linux":
        pytest.skip("most of the names exist only on Linux")
    assert {name for name in MISSING_NAMES["signal"] if not hasattr(signal, name)} == set()
    assert {name for name in MISSING_NAMES["os"] if not hasattr(os, name)} <= {"getresuid", "setns", "unshare", "lockf"}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import resource", ["resource"]),
        ("import os\nos.getuid()", ["os.getuid"]),
        ("from signal import SIGKILL", ["signal.SIGKILL"]),
        ("import os\nn = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1", []),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", []),
        ("try:\n    import fcntl\nexcept ValueError:\n    fcntl = None", ["fcntl"]),
        ("import os\nif not machine.ON_WINDOWS:\n    os.fork()", []),
        ("import os\nos.replace('a', 'b')", []),
    ],
)
def test_missing_names_are_found_unless_guarded(tmp_path, code, found):
    (tmp_path / "x.py").write_text(code, encoding="utf-8")
    assert missing_names(parse(tmp_path / "x.py")) == found


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def test_sources_use_no_names_missing_on_windows():
    found = {(name_of(file), name) for file in SOURCES for name in missing_names(parse(file))}
    assert found == set()


def test_tests_can_be_collected_on_windows():
    """Check the code that runs on import, which is everything except the bodies of functions."""
    found = {}
    for file in TESTS:
        tree = parse(file)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = []
            elif isinstance(node, ast.Lambda):
                node.body = ast.Constant(None)
        found[name_of(file)] = missing_names(tree)
    assert {name: names for name, names in found.items() if names} == {}


def text_without_encoding(tree: ast.AST) -> list[str]:
    """Return the calls that use the system's default encoding or line endings for text files."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else f".{getattr(call.func, 'attr', '')}"
        mode = {".read_text": "'r'", ".write_text": "'w'"}.get(name, "'rb'")
        if name == "open":
            mode = ast.unparse(call.args[1]) if len(call.args) > 1 else "'r'"
        needed = set() if "b" in mode else {"encoding"} if "r" in mode else {"encoding", "newline"}
        if needed - {keyword.arg for keyword in call.keywords} and "os.devnull" not in ast.unparse(call):
            found.append(ast.unparse(call))
    return found


def test_text_files_have_an_explicit_encoding_and_line_endings():
    found = {name_of(file): text_without_encoding(parse(file)) for file in SOURCES}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize("file", [file for file in SOURCES if file in SCRIPTS or file.stem == "__main__"], ids=name_of)
def test_scripts_can_be_imported_by_spawned_workers(file: Path):
    """Spawned workers import the script, so only code under `if __name__ == "__main__"` may run anything."""
    allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    *rest, last = parse(file).body
    assert ast.unparse(last) == "if __name__ == '__main__':\n    cli.run(main)"
    for node in rest:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        assert isinstance(node, allowed) or is_text or is_for_types, ast.unparse(node)


@pytest.fixture
def as_on_windows(monkeypatch) -> None:
    """Remove the names missing on Windows, except those that libraries need here, and refuse to create links."""

    def refuse(*_, **__) -> None:
        raise OSError(22, "A required privilege is not held by the client")  # WinError 1314

    monkeypatch.setattr(machine, "ON_WINDOWS", True)
    for name in MISSING_MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=lambda *_: None, LK_NBLCK=2))
    for module in (os, signal):
        for name in MISSING_NAMES[module.__name__] - {"uname", "sendfile"}:  # platform and shutil use these
            monkeypatch.delattr(module, name, raising=False)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "symlink", refuse)


@pytest.mark.usefixtures("as_on_windows")
@pytest.mark.parametrize("link", ["hard", "sym"])
def test_files_are_copied_if_links_are_not_allowed(drawn_clips, tmp_path, capsys, link):
    split_data.main(["--input_dir", str(drawn_clips), "--output_dir", str(tmp_path / "data"), "--link", link])
    assert "copied 36 files to " in capsys.readouterr().out
    videos = list((tmp_path / "data").rglob("*.avi"))
    assert len(videos) == 36
    assert not any(video.is_symlink() or video.stat().st_nlink > 1 for video in videos)


@pytest.mark.usefixtures("as_on_windows")
def test_all_stages_run_without_names_missing_on_windows(drawn_data, exported, tmp_path, capsys):
    model = tmp_path / "nano.pth"
    train_model.main(
        ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--save_path", str(model), "--num_epochs", "1"]
        + ["--num_workers", "0", "--device", "cpu", "--save_every", "1"]
    )
    logs = json.loads((tmp_path / "nano_logs.json").read_text(encoding="utf-8"))
    assert logs["memory_gb"] == [None]  # not available
    for file in (model, exported):
        test_model.main(
            ["--test_dir", str(drawn_data / "test"), "--checkpoint", str(file), "--output_dir", str(tmp_path / "test")]
            + ["--num_workers", "2", "--num_clips", "1", "--num_crops", "1", "--device", "cpu"]
        )
    video = next((drawn_data / "test").rglob("*.avi"))
    flags = [word for flag, suffix in run_model.OUTPUTS.items() for word in (f"--{flag}", str(tmp_path / f"x{suffix}"))]
    run_model.main(["--video_path", str(video), "--model", str(exported), *flags])
    for line_ends in (b"\r\n", b"\r"):
        assert line_ends not in (tmp_path / "x.json").read_bytes()
    assert "wrote" in capsys.readouterr().out


SPAWN = "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n"


@pytest.mark.slow
def test_training_with_spawned_workers_gives_the_same_weights(drawn_data, tmp_path):
    """Windows and macOS spawn workers. The script runs in its own process, so that its worker imports it again."""
    (tmp_path / "sitecustomize.py").write_text(SPAWN, encoding="utf-8")
    command = ["--data_dir", str(drawn_data), "--model_type", "swin3d_nano", "--num_epochs", "1", "--device", "cpu"]
    spawned, alone = tmp_path / "spawned.pth", tmp_path / "alone.pth"
    result = subprocess.run(
        [sys.executable, "train_model.py", *command, "--num_workers", "1", "--save_path", str(spawned)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train_model.main([*command, "--num_workers", "0", "--save_path", str(alone)])
    torch.set_num_threads(num_threads)
    expected, got = (load_checkpoint(path).weights for path in (alone, spawned))
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
