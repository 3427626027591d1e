"""Receive uploads. Disk space is counted as bytes arrive, so announcing a large file reserves nothing."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from video_module.data.labels import VIDEO_SUFFIXES
from video_module.web.limits import Limits, Refused, address_of
from video_module.web.storage import Storage

# Slowest accepted upload, in bytes per second since its start, and longest pause between two chunks.
_SLOWEST_BYTES_S = 4_000
_PATIENCE_S = 20.0

# Bytes of a form beside its file.
_FORM_BYTES = 10_000
_MAX_FIELD_BYTES = 200
_MAX_PARTS = 10

# Simultaneous uploads of one visitor.
_MAX_AT_ONCE = 12

_MAX_NAME_BYTES = 150
_BAD_CHARACTERS = re.compile(r'[\x00-\x1f\x7f<>:"|?*%#&;`$]')


async def read_body(request: Request, *, most: int, too_large: Refused) -> AsyncIterator[bytes]:
    """Yield the body of a request as it arrives. Raises Refused if it is too large or slow, and ClientDisconnect."""
    if int(request.headers.get("content-length", "0")) > most:
        raise too_large
    begin, taken, has_more = time.monotonic(), 0, True
    while has_more:
        slowest_s = _PATIENCE_S + taken / _SLOWEST_BYTES_S - (time.monotonic() - begin)
        try:
            message = await asyncio.wait_for(request.receive(), min(_PATIENCE_S, max(0.0, slowest_s)))
        except TimeoutError:
            raise Refused("too_slow_upload") from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk, has_more = message.get("body", b""), message.get("more_body", False)
        taken += len(chunk)
        if taken > most:
            raise too_large
        yield chunk


@dataclass
class Upload:
    """A received video and the other fields of its form."""

    path: Path
    fields: dict[str, str] = field(default_factory=dict)


class Uploads:
    """Receives forms with one video each. Each upload gets its own folder, which is deleted if the upload fails."""

    def __init__(self, storage: Storage, limits: Limits) -> None:
        self._storage, self._limits = storage, limits
        self._arriving: dict[str, int] = {}
        self.progress: dict[str, Form] = {}
        """Unfinished uploads by the ids that the page gives them."""

    async def receive(self, request: Request, *, field_name: str, upload_id: str | None = None) -> Upload:
        """Write the file of a form to a new folder, which the caller has to drop. Raises Refused."""
        visitor = address_of(request)
        if self._arriving.get(visitor, 0) >= _MAX_AT_ONCE:
            raise Refused("too_many_uploads", most=_MAX_AT_ONCE)
        self._arriving[visitor] = self._arriving.get(visitor, 0) + 1
        folder = self._storage.new_folder(address=visitor)
        form = Form(folder, self._storage, self._limits, field_name=field_name)
        if upload_id:
            self.progress[upload_id] = form
        try:
            with self._storage.using(folder):
                return await self._fill(form, request)
        except (FormParserError, ClientDisconnect, ValueError):
            self._storage.drop(folder)
            raise Refused("bad_upload") from None
        except BaseException:
            self._storage.drop(folder)
            raise
        finally:
            form.close()
            if upload_id:
                self.progress.pop(upload_id, None)
            self._arriving[visitor] -= 1
            if not self._arriving[visitor]:
                del self._arriving[visitor]

    async def _fill(self, form: "Form", request: Request) -> Upload:
        kind, options = parse_options_header(request.headers.get("content-type"))
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise Refused("wrong_field", field=form.field_name)
        parser = MultipartParser(options[b"boundary"], form.callbacks())
        too_large = Refused("too_large_file", max_file_mb=self._limits.max_file_mb)
        async for chunk in read_body(request, most=self._limits.max_bytes + _FORM_BYTES, too_large=too_large):
            parser.write(chunk)
        if not form.is_whole:
            raise Refused("bad_upload")
        if form.path is None:
            raise Refused("wrong_field", field=form.field_name)
        if form.num_bytes == 0:
            raise Refused("empty_file")
        return Upload(form.path, form.fields)


class Form:
    """The callbacks of a multipart parser, which write the file and collect the fields of a form."""

    def __init__(self, folder: Path, storage: Storage, limits: Limits, *, field_name: str) -> None:
        self._folder, self._storage, self._limits, self.field_name = folder, storage, limits, field_name
        self.path: Path | None = None
        self.num_bytes, self.is_whole = 0, False
        self.fields: dict[str, str] = {}
        self._file: BinaryIO | None = None
        self._num_parts = 0

    def callbacks(self) -> dict:
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_content,
            "on_part_data": self._take,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin_part(self) -> None:
        self._num_parts += 1
        if self._num_parts > _MAX_PARTS:
            raise Refused("bad_upload")
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition, self._value = b"", bytearray()

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name, self._header_value = bytearray(), bytearray()

    def _begin_content(self) -> None:
        options = parse_options_header(self._disposition)[1]
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if b"filename" not in options:
            if self._name == self.field_name:
                raise Refused("wrong_field", field=self.field_name)
            return
        if self._name != self.field_name or self.path is not None:
            raise Refused("wrong_field", field=self.field_name)
        self.path = self._folder / safe_name(options[b"filename"].decode("utf-8", "replace"))
        self._file = open(self.path, "wb")  # noqa: SIM115

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            self._value += data[start:end]
            if len(self._value) > _MAX_FIELD_BYTES:
                raise Refused("bad_upload")
            return
        self.num_bytes += end - start
        if self.num_bytes > self._limits.max_bytes:
            raise Refused("too_large_file", max_file_mb=self._limits.max_file_mb)
        self._storage.take(self._folder, end - start)
        self._file.write(data[start:end])

    def _end_part(self) -> None:
        if self._file is None:
            self.fields[self._name] = self._value.decode("utf-8", "replace")
        else:
            self._file.close()
            self._file = None

    def _end(self) -> None:
        self.is_whole = True


def safe_name(name: str) -> str:
    """Turn the name of an upload into a safe file name. Raises Refused if its suffix is not that of a video."""
    name = _BAD_CHARACTERS.sub("", name.replace("\\", "/").rpartition("/")[2]).strip(" .") or "video"
    suffix = Path(name).suffix.lower()
    # A file without a suffix may be a video; reading it will tell.
    if suffix and suffix not in VIDEO_SUFFIXES:
        raise Refused("bad_suffix", suffix=suffix[:20])
    stem = Path(name).stem if suffix else name
    return stem.encode()[: _MAX_NAME_BYTES - len(suffix)].decode("utf-8", "ignore") + suffix
