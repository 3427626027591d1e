"""Logins: accounts, sessions and the login page."""

import base64
import binascii
import hmac
import html
import math
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

from video_module.errors import InputError
from video_module.files import read_text
from video_module.web.limits import Refused

ENVIRONMENT = "VIDEO_MODULE_AUTH"

_MAX_AGE_S = 12 * 3600
_MAX_SESSIONS = 10_000

# After this many wrong attempts, an address has to wait 1, 2, 4, ... seconds between attempts.
_NUM_FREE = 5
_MAX_WAIT_S = 300.0
_MAX_ADDRESSES = 10_000
# Wrong attempts of an address to remember, and how long after the last one. More would not make it wait longer.
_MAX_WRONG = 20
_FORGET_S = 3600.0


def read_accounts(path: Path | None) -> dict[str, str]:
    """Read passwords by name from a file with lines `name:password`, or from the environment if `path` is None.

    Raises InputError, whose text never contains a line of the file.
    """
    text = read_text(path) if path is not None else os.environ.get(ENVIRONMENT, "")
    where = str(path) if path is not None else ENVIRONMENT
    accounts = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        name, _, password = line.strip().partition(":")
        if not name or not password:
            raise InputError(f"{where}, line {number}: expected name:password")
        accounts[name] = password
    if path is not None and not accounts:
        raise InputError(f"{where}: no accounts; expected lines of name:password")
    return accounts


class Accounts:
    """Checks passwords, slows down guessing, and keeps the sessions."""

    def __init__(self, accounts: dict[str, str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._accounts, self._now = accounts, clock
        # Browsers send cookies to all ports of a host, so each server needs its own cookie name.
        self.cookie = f"session_{secrets.token_hex(4)}"
        self._lock = threading.Lock()
        self._sessions: dict[str, tuple[str, float]] = {}
        """(name, end time) by token, oldest first."""
        self._wrong: dict[str, tuple[list[str], float]] = {}
        """(names of the wrong attempts, time of the next permitted attempt) by address."""

    @property
    def are_needed(self) -> bool:
        return bool(self._accounts)

    def sign_in(self, name: str, password: str, *, address: str) -> str | None:
        """Return a session token, or None if the password is wrong. Raises Refused if the address has to wait."""
        if not self.check(name, password, address=address):
            return None
        token = secrets.token_urlsafe(32)
        with self._lock:
            while len(self._sessions) >= _MAX_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[token] = name, self._now() + _MAX_AGE_S
        return token

    def sign_out(self, token: str) -> None:
        with self._lock:
            self._sessions.pop(token, None)

    def knows(self, token: str) -> bool:
        """Whether a session token is valid."""
        with self._lock:
            _, end = self._sessions.get(token, ("", 0.0))
            if end > self._now():
                return True
            self._sessions.pop(token, None)
            return False

    def knows_basic(self, authorization: str, *, address: str) -> bool:
        """Whether an Authorization header, as sent by `curl -u`, has the right password. Raises Refused."""
        kind, _, encoded = authorization.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            name, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return False
        return self.check(name, password, address=address)

    def check(self, name: str, password: str, *, address: str) -> bool:
        """Whether the password is right. Raises Refused if the address has to wait."""
        with self._lock:
            names, allowed_at = self._wrong.get(address, ([], 0.0))
            if allowed_at > self._now():
                raise Refused("too_many_attempts", seconds=math.ceil(allowed_at - self._now()))
            if allowed_at < self._now() - _FORGET_S:
                names = []
            # Takes the same time whether or not the name exists.
            expected = self._accounts.get(name, secrets.token_urlsafe(16))
            is_right = hmac.compare_digest(password.encode(), expected.encode()) and name in self._accounts
            if is_right:
                # Only the attempts at this account, or its owner could guess the passwords of others without waiting.
                names = [other for other in names if other != name]
            else:
                # Names that do not exist are not kept, as they can be long.
                names = [*names, name if name in self._accounts else ""][-_MAX_WRONG:]
                wait_s = min(2.0 ** (len(names) - _NUM_FREE), _MAX_WAIT_S) if len(names) >= _NUM_FREE else 0.0
                allowed_at = self._now() + wait_s
            self._wrong.pop(address, None)
            while len(self._wrong) >= _MAX_ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
            if names:
                self._wrong[address] = names, allowed_at
            return is_right


_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>{sign_in_title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: system-ui, sans-serif; display: grid; place-items: center; min-height: 90vh; margin: 0; }}
form {{ display: grid; gap: 0.8em; width: min(20em, 90vw); }}
input, button {{ font: inherit; padding: 0.5em; }}
p {{ color: #dc2626; margin: 0; min-height: 1.2em; }}
</style></head><body>
<form method="post" action="{action}">
<h1>{sign_in_title}</h1>
<label>{user_name}<br><input name="username" autocomplete="username" autofocus required></label>
<label>{password}<br><input name="password" type="password" autocomplete="current-password" required></label>
<p role="alert">{message}</p>
<button>{sign_in_title}</button>
</form></body></html>
"""


def login_page(texts: dict[str, str], *, action: str, message: str = "") -> str:
    """The login page. It reveals nothing about the page behind it."""
    values = {key: html.escape(texts[key]) for key in ("language", "sign_in_title", "user_name", "password")}
    return _PAGE.format(**values, action=html.escape(action), message=html.escape(message))
