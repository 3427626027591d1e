"""Storage of visitors' files: their folders, owners and deletion."""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from video_module.errors import InputError
from video_module.files import locked
from video_module.web.limits import Refused

_PREFIX = "action-recognition-"

# Files of a visitor who has left are kept this long, because the visitor may only have lost the connection or reloaded
# the page. An open page asks for its files about twice a minute.
_AWAY_S = 150

# Bytes of the disk to leave for other programs.
_KEEP_FREE = 100_000_000


@contextmanager
def own_folder(parent: Path) -> Iterator[Path]:
    """Create a folder in `parent` for one server's files, and delete it when the block ends.

    Folders left behind by servers that were killed are deleted first.
    """
    for folder in sorted(parent.glob(f"{_PREFIX}*")):
        _remove_leftover(folder)
    root = (parent / f"{_PREFIX}{secrets.token_hex(8)}").resolve()
    # Locked before it exists, or another server that starts right now would take it for a leftover. The lock ends with
    # the process, even if that is killed.
    with locked(root):
        root.mkdir(mode=0o700)
        try:
            yield root
        finally:
            shutil.rmtree(root, ignore_errors=True)


def _remove_leftover(folder: Path) -> None:
    try:
        is_ours = folder.lstat().st_uid == (os.getuid() if hasattr(os, "getuid") else 0)
        if is_ours and folder.is_dir() and not folder.is_symlink():
            with locked(folder):
                shutil.rmtree(folder, ignore_errors=True)
    except (InputError, OSError):  # in use by a running server, or already deleted
        pass


class Storage:
    """Folders for one upload or one result each, with names that cannot be guessed.

    A folder is deleted when its owner replaces it, minutes after its owner has left, and at the latest `keep_s` seconds
    after its last use, but never while it is in use. Safe to use from several threads.
    """

    def __init__(self, root: Path, *, keep_s: float, max_bytes: float, max_bytes_each: float) -> None:
        """`max_bytes` is the space for all files, `max_bytes_each` that for the files of one address."""
        self.root, self.keep_s = root.resolve(), keep_s
        self._max_bytes, self._max_bytes_each = max_bytes, max_bytes_each
        self._lock = threading.RLock()
        self._last_use: dict[Path, float] = {}
        self._users: dict[Path, int] = {}
        self._owned: dict[tuple[str, str], Path] = {}
        # Folders whose owner has left.
        self._left: set[Path] = set()
        # Folders to delete later: Windows cannot delete open files, such as one that is being sent.
        self._kept: set[Path] = set()
        self._sizes: dict[Path, int] = {}
        # The addresses that the folders were created for.
        self._addresses: dict[Path, str] = {}
        self.examples = self.root / "examples"
        """Files for everybody, which are kept until the server stops."""

    def new_folder(self, *, address: str) -> Path:
        """Create an empty folder for a visitor's file; its last use is now."""
        folder = self.root / secrets.token_hex(16)
        folder.mkdir(parents=True)
        with self._lock:
            self._last_use[folder] = time.monotonic()
            self._addresses[folder] = address
        return folder

    def take(self, folder: Path, num_bytes: int) -> None:
        """Count bytes before they are written to a folder. Raises Refused if there is no space for them."""
        with self._lock:
            self.check_space(folder, num_bytes)
            self._sizes[folder] = self._sizes.get(folder, 0) + num_bytes

    def check_space(self, folder: Path, num_bytes: int = 0) -> None:
        """Raise Refused if there is no space for more bytes in a folder."""
        with self._lock:
            address = self._addresses.get(folder)
            sizes = [(self._addresses.get(other) == address, size) for other, size in self._sizes.items()]
            if (
                sum(size for _, size in sizes) + num_bytes > self._max_bytes
                or sum(size for is_same, size in sizes if is_same) + num_bytes > self._max_bytes_each
                or shutil.disk_usage(self.root).free < num_bytes + _KEEP_FREE
            ):
                raise Refused("storage_full")

    def own(self, path: str | Path, *, session: str, slot: str) -> None:
        """Make a visitor the owner of a file, which replaces the file in the same slot."""
        if (folder := self._folder_of(path)) is None:
            return
        with self._lock:
            earlier = self._owned.get((session, slot))
            self._owned[session, slot] = folder
            self._left.discard(folder)
            self._last_use[folder] = time.monotonic()
            if earlier is not None and earlier not in self._owned.values():
                self._drop(earlier)

    @contextmanager
    def using(self, path: str | Path) -> Iterator[None]:
        """Keep a file's folder until the block ends."""
        with self._lock:
            # A folder that was dropped but is still in use may get more users, too.
            if (folder := self._folder_of(path)) is not None:
                self._users[folder] = self._users.get(folder, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                if folder is not None:
                    self._sizes[folder] = _size(folder)
                    self._users[folder] -= 1
                    if not self._users[folder]:
                        del self._users[folder]
                    if folder in self._last_use:
                        self._last_use[folder] = time.monotonic()
                    else:
                        # It was dropped while the block ran.
                        self._drop(folder)

    def drop(self, path: str | Path) -> None:
        """Delete the folder of a file as soon as it is not in use."""
        if (folder := self._folder_of(path)) is not None:
            self._drop(folder)

    def leave(self, session: str) -> None:
        """Mark the files of a visitor who has left. They are deleted soon, unless they are used again."""
        with self._lock:
            left = {self._owned.pop(key) for key in list(self._owned) if key[0] == session}
            # After a reload, the page's new session may own them before the old one has left.
            self._left.update(left - set(self._owned.values()))

    def sweep(self) -> None:
        """Delete folders that have not been used for too long, and those that could not be deleted before."""
        now = time.monotonic()
        with self._lock:
            for folder, last in list(self._last_use.items()):
                keep_s = min(_AWAY_S, self.keep_s) if folder in self._left else self.keep_s
                if last < now - keep_s and folder not in self._users:
                    self._drop(folder)
            for folder in list(self._kept):
                self._delete(folder)

    def _drop(self, folder: Path) -> None:
        with self._lock:
            self._last_use.pop(folder, None)
            self._left.discard(folder)
            for key in [key for key, owned in self._owned.items() if owned == folder]:
                del self._owned[key]
            if folder not in self._users:
                self._delete(folder)

    def _delete(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            self._kept.add(folder)
        else:
            self._kept.discard(folder)
            self._sizes.pop(folder, None)
            self._addresses.pop(folder, None)

    def find(self, path: str) -> Path | None:
        """The existing upload, result or example at a path; None for all other paths."""
        try:
            place = Path(path).resolve()
            is_served = place.is_relative_to(self.examples) or self._folder_of(place) is not None
            return place if is_served and place.is_file() else None
        except (OSError, ValueError):  # too long, or with a null byte
            return None

    def is_below(self, path: str) -> bool:
        """Whether a path is inside the root folder, whether or not it exists."""
        try:
            return bool(path) and Path(path).resolve().is_relative_to(self.root)
        except (OSError, ValueError):
            return False

    def _folder_of(self, path: str | Path) -> Path | None:
        """The folder created by new_folder() that contains a path; None if there is none."""
        path = Path(path).resolve()
        if not path.is_relative_to(self.root) or path == self.root:
            return None
        folder = self.root / path.relative_to(self.root).parts[0]
        return folder if folder in self._last_use or folder in self._users else None


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.lstat().st_size
        except OSError:  # deleted in the meantime
            continue
    return total
