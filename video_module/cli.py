"""What the root scripts share: parsing flags from dataclasses, and how they end."""

import argparse
import atexit
import dataclasses
import difflib
import errno
import math
import os
import sys
import types
import typing
from collections.abc import Callable, Sequence

from video_module import machine
from video_module.errors import InputError, Interrupted

PICTURE_SUFFIXES = (".png", ".jpg")  # of sheets of frames: .jpg is a fifth as large


class HelpFormatter(argparse.HelpFormatter):
    """Shows every default that a help text does not already explain."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        hidden = any(action.default is value for value in (None, False, "", argparse.SUPPRESS))
        shows_default = action.option_strings and not hidden
        if shows_default and "default" not in text and not action.required:
            text += " (default: %(default)s)"
        return text


class Parser(argparse.ArgumentParser):
    """Tells of a wrong flag in a line, with the one that was probably meant, and exit code 2."""

    def error(self, message: str) -> typing.NoReturn:
        known = [flag for action in self._actions for flag in action.option_strings]
        wrong = [word for word in message.split() if word.startswith("--") and word.partition("=")[0] not in known]
        meant = [match for word in wrong for match in difflib.get_close_matches(word.partition("=")[0], known, n=1)]
        hint = f"; did you mean {' '.join(meant)}?" if meant else ""
        self.exit(2, f"error: {message}{hint} (--help shows the flags)\n")


def make_parser(description: str) -> argparse.ArgumentParser:
    """An ArgumentParser with this project's habits: defaults in --help, no abbreviated flags, mistakes in a line."""
    return Parser(description=description, formatter_class=HelpFormatter, allow_abbrev=False)


def add_config_arguments(parser: argparse._ActionsContainer, config_class: type) -> None:
    """Add one flag for each field of a dataclass, named and documented as the field is.

    Each flag defaults to None, which stands for the field's own default: a model's recipe may replace that default, and
    a flag that was given must win over both.
    """
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        text = f"{field.metadata['help']} (default: {field.metadata.get('default', field.default)})"
        kind = hints[field.name]
        if isinstance(kind, types.UnionType):  # "float | None" reads a float
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


def positive_int(text: str) -> int:
    """argparse type for counts."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def natural(text: str) -> int:
    """argparse type for counts that may be none."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {value}")
    return value


def port(text: str) -> int:
    """argparse type for a TCP port."""
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"must be 1 to 65535, got {value}")
    return value


def positive_float(text: str) -> float:
    """argparse type for durations and the like."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def fraction(text: str) -> float:
    """argparse type for shares: 0 <= value < 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def let_workers_have_the_cores() -> None:
    """Make OpenMP's idle threads sleep instead of spin; to be called before torch is first imported.

    Spinning threads take the cores that the decoding processes need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def let_first_process_speak() -> None:
    """Of the processes that torchrun starts, leave prints and bars to the first; to be called before tqdm is imported.

    Errors still reach stderr from each.
    """
    if machine.started_by_torchrun() and int(os.environ["RANK"]) > 0:
        os.environ["TQDM_DISABLE"] = "1"
        # it stays open as long as the process, and takes any letter
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115


def show_written(paths: Sequence[str | os.PathLike]) -> None:
    """End a script by listing the files it wrote; of very many, the first and the last."""
    print("wrote")
    most = 20
    shown = (
        [*paths] if len(paths) <= most else [*paths[: most // 2], f"… ({len(paths) - most} more)", *paths[-most // 2 :]]
    )
    for path in shown:
        print(f"  {path}")


def run(main: Callable[[], object]) -> None:
    """Run a script's main(): mistakes end in one line on stderr and exit code 1, Ctrl-C in 130."""
    # a console of few letters shows "?" rather than a traceback; names of files on stdin may be any bytes
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace"), (sys.stderr, "replace")):
        if hasattr(stream, "reconfigure"):  # it may be closed by the shell, or a notebook's
            stream.reconfigure(errors=errors)
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
        # Without taking the interpreter down: a thread of gloo's may still be letting go of the last tensor it summed,
        # and one that asks for an interpreter that is going aborts the process
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code)


def _run(main: Callable[[], object]) -> None:
    try:
        main()
        if sys.stdout is not None:
            sys.stdout.flush()  # else Python does so after us, and complains by itself
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
    """Whether the reader of our output went away, as in `| head`."""
    unnamed = error.filename is None and error.errno == errno.EINVAL  # what Windows makes of it
    return isinstance(error, BrokenPipeError) or (machine.ON_WINDOWS and unnamed)
