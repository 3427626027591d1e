"""Exceptions for user errors and interrupted runs, and a function that hides passwords in messages."""

import re
import signal

# Signals that end a run cleanly: Ctrl-C, SIGTERM, a closed terminal (SIGHUP), and Ctrl-Break on Windows. On Windows,
# Ctrl-Break is the only one that another program can send, because SIGTERM ends a program at once there. Signals that
# are ignored at the start stay ignored, as nohup requires, and shells that keep Ctrl-C from background jobs.
STOP_SIGNALS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if (number := getattr(signal, name, None)) and signal.getsignal(number) != signal.SIG_IGN
)

# User names and passwords come before the host, where a password may contain any character, or in the parameters.
_SECRETS = (
    (re.compile(r"://[^/?#\s]*@"), "://***@"),
    (re.compile(r"://[^/@\s]*:(?!\d+(?:[/?#\s]|$))\S*@"), "://***@"),
    (re.compile(r"(?i)((?:passw(?:or)?d|pwd|pass|token|secret|key|auth)=)[^&\s]+"), r"\1***"),
)


def hide_secrets(text: str) -> str:
    """Replace user names and passwords in URLs, such as those of cameras, by *** before text is shown or written."""
    if "://" in text:
        for pattern, shown in _SECRETS:
            text = pattern.sub(shown, text)
    return text


class InputError(ValueError):
    """A user error whose text says in one line what to do.

    Scripts print it as `error: …` and exit with code 1. Any other exception is a bug in this project and keeps its
    traceback.
    """


class VideoError(InputError):
    """A video that cannot be opened or has fewer frames than requested. The text names the file."""


class Interrupted(KeyboardInterrupt):
    """A run that ended cleanly after one of STOP_SIGNALS. The text says what was saved."""

    def __init__(self, text: str, *, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code
