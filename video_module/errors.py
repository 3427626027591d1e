"""What is raised for the caller's mistakes, and for the caller's wish to stop."""

import re
import signal

# What ends a run in good order: Ctrl-C, SIGTERM, a terminal that was closed (SIGHUP), and on Windows Ctrl-Break. There
# it is the only one that can be sent to another program, since a SIGTERM ends a program at once. Signals that are
# ignored from the start stay ignored: that is how nohup works, and how shells keep Ctrl-C from background jobs.
STOP_SIGNALS = tuple(
    number
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    if (number := getattr(signal, name, None)) and signal.getsignal(number) != signal.SIG_IGN
)

# Names and passwords stand before the host, where a password may hold any letter, or further back, as parameters.
_SECRETS = (
    (re.compile(r"://[^/?#\s]*@"), "://***@"),
    (re.compile(r"://[^/@\s]*:(?!\d+(?:[/?#\s]|$))\S*@"), "://***@"),
    (re.compile(r"(?i)((?:passw(?:or)?d|pwd|pass|token|secret|key|auth)=)[^&\s]+"), r"\1***"),
)


def hide_secrets(text: str) -> str:
    """Put *** in the place of names and passwords in URLs, as of cameras: for all that is shown or written."""
    if "://" in text:
        for pattern, shown in _SECRETS:
            text = pattern.sub(shown, text)
    return text


class InputError(ValueError):
    """A mistake in what the user gave; its text is one line that says what to do next.

    Scripts print it as `error: …` and exit with 1. Any other exception is a defect of ours and keeps its traceback.
    """


class VideoError(InputError):
    """A video that cannot be opened, or holds fewer frames than asked for; the text names the file."""


class Interrupted(KeyboardInterrupt):
    """A run that one of STOP_SIGNALS ended in good order; its text says what was saved."""

    def __init__(self, text: str, *, exit_code: int):
        super().__init__(text)
        self.exit_code = exit_code
