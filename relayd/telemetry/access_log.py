"""One record per exchange: a line of text or JSON, or a journal entry.

1. `write` runs for every request. Repeated values (route, endpoint, outcome ...) are escaped once and stored in a
   bounded cache; only values chosen by clients are escaped for each record.
2. External values are always escaped. The query string is written only if configured, with keys masked.
3. `write` and `flush` never raise and never block. Lines that cannot be written are counted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from relayd.errors import KINDS
from relayd.money import amount_text
from relayd.telemetry.descriptor import Descriptor
from relayd.telemetry.journal import colours_wanted, spaced
from relayd.telemetry.native import PRIORITIES, Native, field, is_journal
from relayd.telemetry.outcome import Record
from relayd.telemetry.text import COLOURS, DIM, GREEN, QUOTED, RESET, Stamp, plain, quoted, safe
from relayd.wire.redact import mask_query

FLUSH_CHARS = 64 * 1024  # buffered characters that cause a flush before the timer
MAX_CACHED = 4096
VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
FORMATS = ("text", "json", "journal", "off")


def format_for(fd: int) -> str:
    """The format of `format: auto` for a descriptor: text on a terminal, journal under systemd, JSON elsewhere."""
    return "text" if os.isatty(fd) else "journal" if is_journal(fd) else "json"


def milliseconds(span_s: float) -> str:
    """A duration as a JSON number of milliseconds; null if the event did not occur."""
    return f"{span_s * 1e3:.3f}" if span_s > 0.0 else "0" if span_s == 0.0 else "null"


class AccessLog:
    """The access log of one configuration. Owned by telemetry."""

    def __init__(
        self, format: str = "auto", path: str | None = None, query: bool = False, *, fd: int | None = None,
        native: Native | None = None, secret_query: frozenset[str] = frozenset(),
    ) -> None:
        """Opens the file. Raises OSError when it cannot be opened, ValueError for an unknown format."""
        if fd is None:
            fd = sys.__stdout__.fileno() if path is None and sys.__stdout__ is not None else 1
        if format == "auto":
            format = "json" if path is not None else format_for(fd)
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}")
        self.format = format
        self._query = query
        self._secret = secret_query
        self._stamp = Stamp()
        self._size = 0
        self._lines: list[str] = []
        self._datagrams: list[bytes] = []
        self._fixed: dict[tuple[object, ...], tuple[str, str]] = {}
        self._native = (native or Native()) if format == "journal" else None
        self._sink = Descriptor(path, fd) if format in ("text", "json") else None
        terminal = self._sink is not None and self._sink.terminal
        self._coloured = terminal and colours_wanted()
        self._prefixed = format == "text" and path is None and is_journal(fd)
        self._flush_chars = 1 if terminal else FLUSH_CHARS
        self.write: Callable[[Record], None] = {
            "text": self._write_text, "json": self._write_json, "journal": self._write_native,
            "off": self._write_nothing,
        }[format]

    def listen(self, on_fault: Callable[[str], None], on_recovery: Callable[[int], None]) -> None:
        """Set the callbacks: `on_fault` (reason) when the first line is lost, `on_recovery` (lines lost) afterwards."""
        for output in (self._sink, self._native):
            if output is not None:
                output.on_fault, output.on_recovery = on_fault, on_recovery

    @property
    def dropped(self) -> int:
        """Records lost since the start."""
        return (self._sink.dropped if self._sink else 0) + (self._native.dropped if self._native else 0)

    def _write_nothing(self, record: Record) -> None:
        pass

    def _write_json(self, r: Record) -> None:
        line = self.json_line(r)
        self._lines.append(line)
        self._size += len(line)
        if self._size >= self._flush_chars:
            self.flush()

    def json_line(self, r: Record) -> str:
        """The record as a line of JSON."""
        key = (
            r.listener, r.route, r.upstream, r.endpoint, r.consumer, r.method, r.version, r.generation, r.ended_by,
            r.phase, r.code, r.status, r.attempts,
        )
        fixed = self._fixed.get(key)
        if fixed is None:
            fixed = self._cache(key, json_fixed(r))
        route, ending = fixed
        texts = (r.id, r.peer, r.client, r.host, r.path, r.detail)
        if not plain("".join(texts)):
            texts = quoted(r.id), quoted(r.peer), quoted(r.client), quoted(r.host), quoted(r.path), quoted(r.detail)
        id_, peer, client, host, path, detail = texts
        query = f',"query":"{quoted(mask_query(r.query, self._secret))}"' if self._query else ""
        queue_s, connect_s, first_byte_s, total_s = r.queue_s, r.connect_s, r.first_byte_s, r.total_s
        time = self._stamp.format(r.started_wall + total_s if total_s > 0.0 else r.started_wall)
        return (
            f'{{"event":"request_completed","time":"{time}",'
            f'"id":"{id_}","peer":"{peer}","client":"{client}","host":"{host}","path":"{path}"{query},{route},'
            f'"bytes_in":{r.bytes_in},"bytes_out":{r.bytes_out},'
            f'"queue_ms":{milliseconds(queue_s) if queue_s else "0"},'
            f'"connect_ms":{milliseconds(connect_s) if connect_s else "0"},'
            f'"first_byte_ms":{f"{first_byte_s * 1e3:.3f}" if first_byte_s > 0.0 else milliseconds(first_byte_s)},'
            f'"total_ms":{f"{total_s * 1e3:.3f}" if total_s > 0.0 else milliseconds(total_s)},{ending},'
            f'"detail":"{detail}"{json_more(r) if r.more is not None or r.usage is not None else ""}}}\n'
        )

    def _write_text(self, r: Record) -> None:
        query = safe(mask_query(r.query, self._secret)) if self._query else ""
        target = " ".join(part for part in (safe(r.route), safe(r.upstream), safe(r.endpoint)) if part)
        client = safe(r.client or r.peer) + (f" ({safe(r.consumer)})" if r.consumer else "")
        outcome = " ".join(part for part in (r.outcome, r.code, safe(r.detail)) if part)
        outcome += "".join(f" {name}={safe(str(value))}" for name, value in more_of(r))
        total = f"{r.total_s * 1e3:.1f}ms" if r.total_s >= 0 else "-"
        first = f" first {r.first_byte_s * 1e3:.1f}ms" if r.first_byte_s >= 0 else ""
        stamp = self._stamp.format(r.started_wall + max(r.total_s, 0.0))
        status, tail = str(r.status), f"id={safe(r.id)} generation={r.generation}"
        if self._coloured:
            stamp, tail = f"{DIM}{stamp}{RESET}", f"{DIM}{tail}{RESET}"
            status = f"{GREEN if r.status < 400 else COLOURS['warning' if r.status < 500 else 'error']}{status}{RESET}"
        lead = f"<{priority_of(r)}>" if self._prefixed else ""
        line = (
            f"{lead}{stamp} {status} {safe(r.method)} {safe(r.host)}{safe(r.path)}{query} {client} -> {target or '-'} "
            f"{total}{first} in {r.bytes_in} out {r.bytes_out} {outcome} {tail}\n"
        )
        self._lines.append(line)
        self._size += len(line)
        if self._size >= self._flush_chars:
            self.flush()

    def _write_native(self, r: Record) -> None:
        query = mask_query(r.query, self._secret) if self._query else ""
        request = f"{safe(r.method)} {safe(r.host)}{safe(r.path)}"
        message = f"request_completed {r.status} {request} {milliseconds(r.total_s)} ms {r.outcome}{failure_of(r)}"
        values = {
            "ID": r.id, "LISTENER": r.listener, "PEER": r.peer, "CLIENT": r.client, "METHOD": r.method,
            "PROTOCOL": VERSIONS.get(r.version, ""), "ROUTE": r.route,
            "UPSTREAM": r.upstream, "ENDPOINT": r.endpoint, "CONSUMER": r.consumer, "STATUS": str(r.status),
            "BYTES_IN": str(r.bytes_in),
            "BYTES_OUT": str(r.bytes_out), "QUEUE_MS": span(r.queue_s), "CONNECT_MS": span(r.connect_s),
            "FIRST_BYTE_MS": span(r.first_byte_s), "TOTAL_MS": span(r.total_s), "OUTCOME": r.outcome, "CODE": r.code,
            "DETAIL": r.detail, "ATTEMPTS": str(r.attempts), "GENERATION": str(r.generation),
        }
        values |= {name.upper(): str(value) for name, value in more_of(r)}
        values |= {"HOST": r.host, "PATH": r.path, "QUERY": query}  # last: a record that is too large is cut at its end
        head = (
            field("MESSAGE", message) + field("PRIORITY", str(priority_of(r)))
            + field("SYSLOG_IDENTIFIER", "relayd") + field("RELAYD_EVENT", "request_completed")
        )
        fields = (field("RELAYD_" + name, safe(value)) for name, value in values.items() if value)
        datagram = head + b"".join(fields)
        self._datagrams.append(datagram)
        self._size += len(datagram)
        if self._size >= self._flush_chars:
            self.flush()

    def _cache(self, key: tuple[object, ...], fixed: tuple[str, str]) -> tuple[str, str]:
        if len(self._fixed) >= MAX_CACHED:  # clients and upstreams choose methods and statuses: bounded
            self._fixed.clear()
        self._fixed[key] = fixed
        return fixed

    def flush(self) -> None:
        """Write the buffered lines in one call. Called by a timer of the daemon. Never raises."""
        self._size = 0
        if self._sink is not None:
            lines = self._lines
            if lines:
                self._lines = []
                self._sink.write("".join(lines).encode("utf-8", "backslashreplace"), len(lines))
            elif self._sink.waiting:
                self._sink.drain()
        elif self._native is not None and self._datagrams:
            self._datagrams = self._native.send_all(self._datagrams)

    def reopen(self) -> None:
        """Reopen the file after a rotation. Raises OSError; then the old file stays in use."""
        self.flush()
        if self._sink is not None:
            self._sink.reopen()

    def close(self) -> None:
        self.flush()
        if self._sink is not None:
            self._sink.close()
        if self._native is not None:
            self._native.close()


def priority_of(r: Record) -> int:
    """The priority of syslog(3): an internal error is an error; a 5xx or an aborted response is a warning, unless the
    client caused it."""
    if r.code == "internal":
        return PRIORITIES["error"]
    failed = r.status >= 500 or r.code
    return PRIORITIES["warning" if failed and (r.ended_by != "client" or not r.code) else "info"]


def failure_of(r: Record) -> str:
    """Route, upstream, endpoint, code and reason of a failed exchange, for the end of its line; else empty."""
    if not r.code and r.status < 500:
        return ""
    kind = KINDS.get(r.code)
    reason = r.detail or (kind.message if kind is not None else "")
    details = {"route": r.route, "upstream": r.upstream, "endpoint": r.endpoint, "code": r.code, "reason": reason}
    return "".join(f" {name}={spaced(value)}" for name, value in details.items() if value)


def span(span_s: float) -> str:
    """A duration in milliseconds for a journal field; empty if the event did not occur."""
    return f"{span_s * 1e3:.3f}" if span_s >= 0 else ""


def json_fixed(r: Record) -> tuple[str, str]:
    """The members of a line that many exchanges share: those of the route and those of the outcome."""
    return (
        f'"listener":"{quoted(r.listener)}","method":"{quoted(r.method)}","protocol":"{VERSIONS.get(r.version, "")}",'
        f'"route":"{quoted(r.route)}","upstream":"{quoted(r.upstream)}","endpoint":"{quoted(r.endpoint)}",'
        f'"consumer":"{quoted(r.consumer)}","generation":{r.generation}',
        f'"status":{r.status},"attempts":{r.attempts},"outcome":"{r.outcome}","code":"{quoted(r.code)}"',
    )


def more_of(r: Record) -> list[tuple[str, str | int | float]]:
    """The names and values of optional members: token counts, the cost, then the others."""
    found: list[tuple[str, str | int | float]] = []
    usage = r.usage
    if usage is not None:
        found = [("tokens_input", usage.input), ("tokens_output", usage.output)]
        if usage.cached_read:
            found.append(("tokens_cached", usage.cached_read))
        if usage.cache_creation:
            found.append(("tokens_cache_creation", usage.cache_creation))
        if usage.reasoning:
            found.append(("tokens_reasoning", usage.reasoning))
    if r.cost_nano is not None:
        found += ("cost", amount_text(r.cost_nano)), ("currency", r.currency)
        if r.cost_estimated:
            found.append(("cost_estimated", True))
    if r.more is not None:
        found += r.more.items()
    return found


def json_more(r: Record) -> str:
    """The optional members, each with a leading comma."""
    return "".join([
        f',"{name}":"{QUOTED[value]}"' if value.__class__ is str
        else f',"{name}":{"true" if value is True else value}' for name, value in more_of(r)
    ])
