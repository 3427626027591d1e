"""Limits on connections that uvicorn does not have: their number, and how long one may be idle."""

import asyncio
import ipaddress
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from video_module.web.limits import visitor_at

# Connections per visitor. A page needs about ten, and a visitor may have several tabs. A proxy on this machine, whose
# address is a loopback one, serves many visitors.
_MAX_EACH = 64
_MAX_ALL = 512

# Connections are closed after this long without a new request or data for one, or with an answer that is not read. That
# does not hurt paused videos: browsers request the rest again.
_PATIENCE_S = 20.0
_PATIENCE_UNSENT_S = 60.0
_LOOK_EVERY_S = 5.0

_open: Counter[str] = Counter()


class Connection(H11Protocol):
    """One connection, created by uvicorn."""

    _visitor: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _idle_s = 0.0
    _last_seen: tuple[Any, int] = (None, 0)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        most = _MAX_ALL if _is_loopback(address) else _MAX_EACH
        visitor = visitor_at(address)
        if _open.total() >= _MAX_ALL or _open[visitor] >= most:
            transport.abort()
            return
        self._visitor = visitor
        _open[visitor] += 1
        self._timer = self.loop.call_later(_LOOK_EVERY_S, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()
        if self._visitor is not None:
            _open[self._visitor] -= 1
            if not _open[self._visitor]:
                del _open[self._visitor]

    def _look(self) -> None:
        """Close the connection if nothing has happened for too long."""
        is_answering = self.cycle is not None and not self.cycle.response_complete
        seen = self.cycle, self.transport.get_write_buffer_size()
        is_waiting = not is_answering or seen[1] > 0
        self._idle_s = self._idle_s + _LOOK_EVERY_S if is_waiting and seen == self._last_seen else 0.0
        self._last_seen = seen
        if self._idle_s >= (_PATIENCE_UNSENT_S if is_answering else _PATIENCE_S):
            self.transport.abort()
            return
        self._timer = self.loop.call_later(_LOOK_EVERY_S, self._look)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False
