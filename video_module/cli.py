"""Code shared by the root scripts: flags from dataclasses, environment variables, and how a script exits."""

import argparse
import atexit
import dataclasses
import difflib
import errno
import math
import os
import re
import signal
import sys
import types
import typing
from collections.abc import Callable, Sequence

from video_module import __version__, machine
from video_module.errors import STOP_SIGNALS, InputError, Interrupted, hide_secrets

# For sheets of frames. A .jpg is a fifth as large.
PICTURE_SUFFIXES = (".png", ".jpg")
DEVICE_HELP = "auto, cpu or cuda; for .onnx files also openvino, tensorrt, dml, coreml or a plug-in's name"


_Config = typing.TypeVar("_Config")


class HelpFormatter(argparse.HelpFormatter):
    """Shows every default that a help text does not already explain."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        hidden = any(action.default is value for value in (None, False, "", argparse.SUPPRESS))
        shows_default = action.option_strings and not hidden
        if shows_default and "default" not in text and not action.required:
            text += " (default: %(default)s)"
        return text


class _Parser(argparse.ArgumentParser):
    """Reports a wrong flag in one line, suggests the flag that was probably meant, and exits with code 2."""

    def error(self, message: str) -> typing.NoReturn:
        known = [flag for action in self._actions for flag in action.option_strings]
        words = [re.split("[=:,;/]", word)[0] for word in message.split() if word.startswith("--")]
        wrong = [(word, known) for word in words if word not in known]
        if choice := re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message):
            wrong.append((choice[1], choice[2].replace("'", "").split(", ")))
        meant = [match for word, names in wrong for match in difflib.get_close_matches(word, names, n=1)]
        hint = f"; did you mean {' '.join(meant)}?" if meant else ""
        self.exit(2, f"error: {hide_secrets(message)}{hint} (--help shows the flags)\n")


def make_parser(description: str) -> argparse.ArgumentParser:
    """Make a parser that shows defaults in --help, refuses abbreviated flags, and reports errors in one line."""
    parser = _Parser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)
    version = f"video_module {__version__}"
    parser.add_argument("--version", action="version", version=version, help="print the version and exit")
    return parser


def add_config_arguments(parser: argparse._ActionsContainer, config_class: type) -> None:
    """Add one flag for each field of a dataclass, with the field's name and help.

    Each flag defaults to None, which means the field's own default. A model's recipe may replace that default, and a
    flag that was given overrides both.
    """
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        text = f"{field.metadata['help']} (default: {field.metadata.get('default', field.default)})"
        kind = hints[field.name]
        # A flag for "float | None" reads a float; it is None if it was not given.
        if isinstance(kind, types.UnionType):
            kind = next(member for member in typing.get_args(kind) if member is not type(None))
        if typing.get_origin(kind) is tuple:
            parser.add_argument(f"--{field.name}", nargs="+", metavar="NAME", default=None, help=text)
        elif kind is bool:
            parser.add_argument(f"--{field.name}", action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            choices, kind = field.metadata.get("choices"), field.metadata.get("parse", kind)
            parser.add_argument(f"--{field.name}", type=kind, default=None, choices=choices, help=text)


def given(args: argparse.Namespace, config_class: type) -> dict[str, typing.Any]:
    """The fields of `config_class` that the user set on the command line."""
    names = [field.name for field in dataclasses.fields(config_class)]
    values = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def read_config(args: argparse.Namespace, config_class: type[_Config]) -> _Config:
    """Build a config from the flags that were given. Raises InputError naming the flag with a wrong value."""
    try:
        return config_class(**given(args, config_class))
    except ValueError as error:
        raise InputError(f"--{error}") from None


def _checked(value: float, *, is_allowed: bool, rule: str) -> typing.Any:
    if not is_allowed:
        raise argparse.ArgumentTypeError(f"must {rule}, got {value}")
    return value


def positive_int(text: str) -> int:
    """argparse type for counts."""
    return _checked(value := int(text), is_allowed=value >= 1, rule="be at least 1")


def natural(text: str) -> int:
    """argparse type for counts that may be 0."""
    return _checked(value := int(text), is_allowed=value >= 0, rule="not be negative")


def port(text: str) -> int:
    """argparse type for a TCP port."""
    return _checked(value := int(text), is_allowed=1 <= value <= 65535, rule="be 1 to 65535")


def positive_float(text: str) -> float:
    """argparse type for positive numbers, such as durations."""
    return _checked(value := float(text), is_allowed=0 < value < math.inf, rule="be positive")


def target_fps(text: str) -> float:
    """argparse type for a frame rate; 0 keeps the rate of each file."""
    return 0.0 if text == "0" else positive_float(text)


def fraction(text: str) -> float:
    """argparse type for shares: 0 <= value < 1."""
    return _checked(value := float(text), is_allowed=0 <= value < 1, rule="be at least 0 and below 1")


CLIP_FLAGS = ("clip_len", "frame_stride", "target_fps", "img_size")


def add_clip_arguments(parser: argparse.ArgumentParser) -> argparse._ActionsContainer:
    """Add CLIP_FLAGS, which change a model's clips; ModelSpec.clip_config() takes them. Returns their group."""
    clip = parser.add_argument_group("clips (defaults: the model's)")
    clip.add_argument("--clip_len", type=positive_int, help="number of frames per clip")
    clip.add_argument("--frame_stride", type=positive_int, help="step between the frames of a clip")
    clip.add_argument(
        "--target_fps",
        type=target_fps,
        help="frame rate that all videos are resampled to, in frames/s; --frame_stride and --clip_step count frames "
        "at this rate; 0: keep the rate of each file",
    )
    clip.add_argument("--img_size", type=positive_int, help="side of the square input, in pixels")
    return clip


def prepare_process(*, has_workers: bool = False) -> None:
    """Set environment variables for torch, OpenMP, OpenCV, albumentations and tqdm; call this before importing them.

    `has_workers`: whether decoding processes will run beside this one.
    """
    # OpenMP's idle threads spin by default, and would take cores that the decoding processes need.
    if has_workers:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # albumentations checks online for a newer version whenever it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # OpenCV would print a warning for each file that it cannot open, and FFmpeg a line for each damaged packet. Our own
    # errors report both, once for each file.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # In a log, each update of a bar takes a line. By default there are ten a second.
    if machine.leaves_bars():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    # Only the first of torchrun's processes prints. Replacing stdout silences every print() of the others, including
    # those in libraries; a check of the rank at each print() would soon be forgotten somewhere. Errors still reach
    # stderr. The stream stays open as long as the process does.
    if machine.started_by_torchrun() and int(os.environ["RANK"]) > 0:
        os.environ["TQDM_DISABLE"] = "1"
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115


def show_written(paths: Sequence[str | os.PathLike], *, limit: int = 20) -> None:
    """List the files that a script wrote; if there are more than `limit`, only the first and the last ones."""
    lines = [f"  {path}" for path in paths]
    if len(lines) > limit:
        lines[limit // 2 : -limit // 2] = [f"  … ({len(lines) - limit} more)"]
    print("wrote", *lines, sep="\n")


def run(main: Callable[[], object]) -> None:
    """Run a script's main(). User errors give one line on stderr and exit code 1, Ctrl-C 130, SIGTERM 143."""
    # A console that lacks a character shows "?" instead of raising. With line buffering, output and the progress bars
    # on stderr appear in the right order in a log. A stream may be None (closed by the shell) or a notebook's, which
    # cannot be reconfigured.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace", line_buffering=True)
    # By default SIGTERM and SIGHUP end Python at once, which would leave half-written files behind. torchrun's
    # processes keep that default: when one fails, torchrun sends SIGTERM to the others, and one that is waiting in C++
    # would never run a Python handler.
    if not machine.started_by_torchrun():
        for number in set(STOP_SIGNALS) - {signal.SIGINT}:
            signal.signal(number, _interrupt)
    try:
        _run(main)
        code = 0
    except SystemExit as end:
        if not machine.started_by_torchrun():
            raise
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = 1 if isinstance(end.code, str) else end.code or 0
    if machine.started_by_torchrun():
        # Exit without shutting the interpreter down. One of gloo's threads releases the last tensor it summed some time
        # after main() has ended, and needs the interpreter for that; C++ aborts the process if the interpreter is
        # already shutting down. That happened in 7 of 30 starts of a small program, and in none of 40 that exited like
        # this. Exit handlers and unwritten output are taken care of here.
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)


def _interrupt(number: int, _: types.FrameType | None) -> None:
    if signal.Signals(number).name == "SIGHUP":
        machine.leave_terminal()
    raise Interrupted("interrupted", exit_code=128 + number)


def _run(main: Callable[[], object]) -> None:
    try:
        main()
        # Flush here, so that a pipe whose reader has gone is handled below; at exit, Python would print an error.
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if _is_broken_pipe(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        if error.filename is None and error.strerror is None:
            raise
        where = f": {error.filename}" if error.filename else ""
        sys.exit(f"error: {error.strerror}{where}")
    except KeyboardInterrupt as stop:
        print(str(stop) or "interrupted", file=sys.stderr)
        sys.exit(stop.exit_code if isinstance(stop, Interrupted) else 130)


def _is_broken_pipe(error: OSError) -> bool:
    """Whether the reader of our output has closed it, as `| head` does."""
    # Windows reports it as an invalid argument without a file name.
    unnamed = error.filename is None and error.errno == errno.EINVAL
    return isinstance(error, BrokenPipeError) or (machine.ON_WINDOWS and unnamed)
