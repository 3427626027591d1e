"""Tests of how scripts parse flags, print, and handle errors and signals."""

import argparse
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from video_module import cli, machine

ROOT = Path(__file__).parents[1]


def run(code: str, *, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess:
    """Run `code` as the main() of a script in a new process."""
    body = "\n".join(f"    {line}" for line in code.splitlines())
    program = f"import os, sys\nfrom video_module import cli\ndef main():\n{body}\ncli.run(main)"
    env = {**os.environ, "PYTHONUTF8": "0", **environment}
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, input=stdin, capture_output=True)


def test_characters_that_the_console_cannot_show_are_replaced():
    result = run("print('wave █ ёлка')", PYTHONIOENCODING="cp1252")
    assert (result.returncode, result.stdout.split()) == (0, [b"wave", b"?", b"????"])
    result = run("from video_module.errors import InputError\nraise InputError('ёлка: no')", PYTHONIOENCODING="cp1252")
    assert (result.returncode, result.stderr.split()) == (1, [b"error:", b"????:", b"no"])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM ends a process at once on Windows")
def test_sigterm_leaves_no_partial_file(tmp_path):
    path = tmp_path / "x.json"
    code = "import signal; from pathlib import Path; from video_module.files import replacing\n"
    result = run(
        f"{code}with replacing(Path({str(path)!r})) as part: part.touch(); signal.raise_signal(signal.SIGTERM)"
    )
    assert (result.returncode, result.stderr) == (143, b"interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_closed_terminal_ends_the_script_cleanly(tmp_path):
    """Output to the terminal fails from then on, also in cleanup code, which must run nevertheless."""
    import pty

    program = f"""
import fcntl, signal, sys, termios
from pathlib import Path
from video_module import cli
def main():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    try:
        print("ready", flush=True)
        signal.pause()
    finally:
        print("tidying up", file=sys.stderr, flush=True)
        Path({str(tmp_path / "tidy")!r}).touch()
cli.run(main)"""
    ours, theirs = pty.openpty()
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, start_new_session=True, **streams)
    os.close(theirs)
    assert os.read(ours, 100).startswith(b"ready")
    os.close(ours)
    assert process.wait(timeout=60) == 129
    assert (tmp_path / "tidy").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no nohup")
def test_a_signal_that_nohup_ignores_stays_ignored():
    program = "import signal; from video_module import cli; cli.run(lambda: signal.raise_signal(signal.SIGHUP))"
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c", program]
    assert subprocess.run(command, cwd=ROOT).returncode == 0


def test_streams_of_a_notebook_are_not_changed(monkeypatch):
    """They are not files and have no encoding that could be set."""
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    cli.run(lambda: print("here"))
    assert sys.stdout.getvalue() == "here\n"


def test_help_shows_informative_defaults_only():
    parser = cli.make_parser("x")
    defaults = {"--count": 0, "--names": ["a"], "--rate": 0.5, "--none": None, "--off": False, "--path": ""}
    for flag, default in defaults.items():
        parser.add_argument(flag, default=default, help=f"the {flag[2:]}")
    text = parser.format_help()
    assert "the count (default: 0)" in text and "the rate (default: 0.5)" in text
    assert text.count("(default: ") == 3


def test_a_usage_error_hides_passwords(capsys):
    with pytest.raises(SystemExit):
        cli.make_parser("x").parse_args(["--video", "rtsp://user:pa55word@h/x"])
    assert "rtsp://***@h/x" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "65536", "http"])
def test_invalid_ports_are_refused(text):
    assert cli.port("65535") == 65535
    with pytest.raises((ValueError, argparse.ArgumentTypeError)):
        cli.port(text)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
@pytest.mark.parametrize("num_lines", [1, 100_000])
def test_a_closed_pipe_ends_the_script_quietly(num_lines):
    program = f"from video_module import cli; cli.run(lambda: print('line\\n' * {num_lines}))"
    settings = {"cwd": ROOT, "env": {**os.environ, "PYTHONUNBUFFERED": ""}}  # a single line is written only at exit
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **settings, **pipes)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_a_closed_pipe_is_recognised_on_windows(monkeypatch):
    error = OSError(errno.EINVAL, "Invalid argument")
    assert not cli._is_broken_pipe(error)
    monkeypatch.setattr(machine, "ON_WINDOWS", True)
    assert cli._is_broken_pipe(error)
    assert not cli._is_broken_pipe(OSError(errno.EINVAL, "Invalid argument", "a?.avi"))
    assert not cli._is_broken_pipe(OSError(errno.ENOSPC, "No space left on device"))


def test_a_log_gets_few_updates_of_a_bar():
    program = (
        "import time\nfrom video_module import cli\ncli.prepare_process()\nfrom tqdm import tqdm\n"
        "for _ in tqdm(range(30)): time.sleep(0.02)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("TQDM")}
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True)
    assert result.stderr.count(b"\r") <= 3 and b"30/30" in result.stderr


def test_other_processes_of_a_job_print_nothing(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TQDM_DISABLE", "")
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    cli.prepare_process()
    with sys.stdout:
        print("█ \udcff ёлка")
        assert sys.stdout.name == os.devnull


@pytest.mark.parametrize(
    ("ending", "code", "message"),
    [
        ("pass", 0, b""),
        ("sys.exit(3)", 3, b""),
        ("from video_module.errors import InputError\nraise InputError('no')", 1, b"error: no"),
        ("raise KeyboardInterrupt('stopped')", 130, b"stopped"),
    ],
)
def test_a_process_of_a_distributed_job_exits_without_interpreter_shutdown(ending, code, message):
    """A thread of gloo could crash during interpreter shutdown, so it is skipped; atexit functions still run."""
    body = """
import atexit
class Lasting:
    def __del__(self, write=os.write): write(1, b"taken down")
global lasting
lasting = Lasting()
atexit.register(print, "at exit")
print("printed")
"""
    result = run(body + ending, TORCHELASTIC_RUN_ID="x")
    assert (result.returncode, result.stderr.strip()) == (code, message)
    assert result.stdout.split(b"\n") == [b"printed", b"at exit", b""]
    if code == 0:
        assert b"taken down" in run(body + ending).stdout


@pytest.mark.parametrize("num_files", [1, 20, 21, 500])
def test_long_lists_of_written_files_are_shortened(capsys, num_files):
    names = [f"{number}.json" for number in range(num_files)]
    cli.show_written(names)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "wrote"
    if num_files <= 20:
        assert lines == [f"  {name}" for name in names]
    else:
        ends = [f"  {name}" for name in (*names[:10], *names[-10:])]
        assert lines == [*ends[:10], f"  … ({num_files - 20} more)", *ends[10:]]


def test_numbers_out_of_range_are_refused():
    allowed = [(cli.positive_int, "1"), (cli.natural, "0"), (cli.port, "65535"), (cli.positive_float, "0.1")]
    refused = [(cli.positive_int, "0"), (cli.natural, "-1"), (cli.port, "0"), (cli.port, "65536")]
    refused += [(cli.positive_float, "0"), (cli.positive_float, "inf"), (cli.fraction, "1"), (cli.fraction, "-0.1")]
    for parse, text in [*allowed, (cli.fraction, "0")]:
        assert parse(text) == float(text)
    for parse, text in refused:
        with pytest.raises(argparse.ArgumentTypeError, match="must"):
            parse(text)
            pytest.fail(f"{parse.__name__} took {text}")
