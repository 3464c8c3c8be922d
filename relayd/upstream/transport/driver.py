"""The driver: one CurlMulti, one private epoll, one lazy timer; drives every transfer of the process.

Laws:
1. Nothing calls pycurl while `in_libcurl`; sinks run only after socket_action has returned (`_flush`).
2. libcurl's descriptors are watched by the private epoll, never by the loop: libcurl closes them on its own.
3. An idle keep-alive connection stays in the epoll with an empty mask; an event on it means that the peer closed it.
4. Cancel takes effect at once: remove_handle closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
5. Transfers requested in one turn of the loop begin together in the next: one call makes libcurl send all requests,
   which costs a third less than a call for each.
6. The work per turn of the loop is bounded: after SHARE_S, the remaining ready descriptors and uncalled sinks are
   processed first in the next turn.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

import pycurl
from tornado.ioloop import IOLoop

from relayd import clock
from relayd.upstream.transport.faults import NO_RESOURCES, REWIND, lacks_resources
from relayd.upstream.transport.names import Name, Names, without_route
from relayd.upstream.transport.slot import ACTIVE, DONE, GETINFO, PoolPort, Sink, Slot
from relayd.work_queue import WorkQueue

LOG = logging.getLogger("relayd.transport")
REAP_AFTER_S = 1.2
SHARE_S = 0.005
MAX_CLOSED = 4096
_TIMEOUT = ((pycurl.SOCKET_TIMEOUT, 0),)
_SOCKET_TIMEOUT: int = pycurl.SOCKET_TIMEOUT
_REMOVE: int = pycurl.POLL_REMOVE
_EPOLL_MASKS = (0, 1, 4, 5)  # of POLL_NONE, POLL_IN, POLL_OUT, POLL_INOUT: EPOLLIN is 1, EPOLLOUT is 4
_CONNECT_TIME: int = pycurl.CONNECT_TIME
_LAST_SOCKET: int = pycurl.LASTSOCKET

Ended = tuple[Slot, int, int, str]  # slot, gen, errno, libcurl's error text


class Driver:
    """Owned by StreamClient; everything here runs on its loop."""

    def __init__(
        self, loop: IOLoop, multi: Any, finish_fetch: Callable[[Any, int, str], None], work: WorkQueue
    ) -> None:
        self.ready_slots: list[Slot] = []
        self.active = 0
        self.http1_origins: set[bytes] = set()  # TLS origins to which a connection may use HTTP/1.1
        self.closed_s: dict[bytes, float] = {}  # origin -> clock time at which a peer last closed an idle connection
        self.in_libcurl = False
        self._loop, self._multi, self._finish_fetch, self._work = loop, multi, finish_fetch, work
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}  # descriptor -> epoll mask; 0 = parked
        self._owners: dict[int, tuple[PoolPort, int]] = {}  # descriptor -> pool, and the inode of the socket
        self.names = Names(loop, self)
        self._resumes: list[tuple[Slot, int]] = []
        self._starting: list[tuple[Slot, int]] = []
        self._ended: list[Ended] = []
        self._pending_events: list[tuple[int, int]] = []  # not processed in the last turn
        self._slots: dict[Any, Slot] = {}  # the active transfers, by their handle
        self._flushing = self._due_now = self._closed = False
        self._deadline: float | None = None
        self._armed: object | None = None
        self._reap_timer: object | None = None
        self._reaper: Any = None
        self._reaping = False
        self._armed_at = 0.0
        # Methods that every transfer needs: pycurl looks up an attribute slowly.
        self._socket_action, self._info_read = multi.socket_action, multi.info_read
        self._add_handle, self._remove_handle = multi.add_handle, multi.remove_handle
        self._modify = self._epoll.modify
        multi.setopt(pycurl.M_MAXCONNECTS, 4096)
        multi.setopt(pycurl.M_PIPELINING, 2)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self.on_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self.on_timer)
        loop.add_handler(self._epoll.fileno(), self._on_ready, loop.READ)

    # ---- libcurl's callbacks

    def on_socket(self, what: int, fd: int, multi: Any = None, data: Any = None) -> None:
        """SOCKETFUNCTION: libcurl changes its interest in a descriptor."""
        if self._closed:  # closing the multi still sends GOAWAY on HTTP/2 connections
            return
        masks = self._masks
        if what == _REMOVE:
            if masks.get(fd, 0) & 4:  # else the mask already is EPOLLIN or empty
                with contextlib.suppress(OSError):
                    self._modify(fd, select.EPOLLIN)
            masks[fd] = 0
            return
        mask = _EPOLL_MASKS[what]
        try:
            if fd in masks:
                self._modify(fd, mask)
            else:
                self._epoll.register(fd, mask)
        except FileExistsError:
            self._modify(fd, mask)
        except OSError:  # ENOENT: the descriptor was closed and its number reused
            self._epoll.register(fd, mask)
        masks[fd] = mask

    def on_timer(self, milliseconds: int) -> None:
        """TIMERFUNCTION: libcurl sets its next deadline."""
        if milliseconds < 0:
            self._deadline = None
            return
        if milliseconds == 0:
            self._due_now = True
            if self.in_libcurl:
                self._deadline = 0.0
                return
        deadline = self._deadline = clock.monotonic() + milliseconds / 1000
        if self._armed is not None:
            if self._armed_at <= deadline:
                return  # it fires early, and is then set again
            self._loop.remove_timeout(self._armed)
        self._armed_at = deadline
        self._armed = self._loop.call_later(milliseconds / 1000, self._on_timeout)

    # ---- the loop's callbacks

    def _on_timeout(self) -> None:
        self._armed = None
        if self._deadline is None:
            return
        wait = self._deadline - clock.monotonic()
        if wait > 0.001:
            self._armed_at = self._deadline
            self._armed = self._loop.call_later(wait, self._on_timeout)
            return
        self._deadline = None
        self.drive(_TIMEOUT)
        self._rearm()

    def _rearm(self) -> None:
        """Set the timer for a deadline that is still pending: libcurl announces each deadline only once."""
        if self._armed is None and (rest := self._multi.timeout()) >= 0:
            self.on_timer(max(rest, 1))

    def _on_ready(self, fd: Any, events: int) -> None:
        todo, self._pending_events = self._pending_events, []
        if todo:  # the epoll reports an event on a parked descriptor again
            todo = [(ready, mask) for ready, mask in todo if self._masks.get(ready)]
        for ready, event in () if todo else self._epoll.poll(0, 256):
            if not self._masks.get(ready):
                self._on_parked(ready)
            else:  # EPOLLERR and EPOLLHUP -> CSELECT_IN, and CSELECT_ERR
                todo.append(
                    (ready, (event & 1) | (event & 4) >> 1 | (1 if event & 0x18 else 0) | (4 if event & 8 else 0))
                )
        if todo:
            self.drive(todo)

    def _on_parked(self, fd: int) -> None:
        """The peer closed an idle connection."""
        self._masks.pop(fd, None)
        owner = self._owners.pop(fd, None)
        if owner is not None:
            if len(self.closed_s) >= MAX_CLOSED:
                self.closed_s.clear()
            self.closed_s[owner[0].origin] = clock.monotonic()
        if self._reap_timer is None:
            self._reap_timer = self._loop.call_later(REAP_AFTER_S, self._reap)
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def _reap(self) -> None:
        """Make libcurl close dead keep-alive connections.

        libcurl looks for them only at the start of a transfer, at most once a second; without a transfer, their
        descriptors would stay open. The transfer begun here uses a Unix socket that cannot exist, and fails at once.
        """
        self._reap_timer = None
        if self._reaper is None:
            self._reaper = pycurl.Curl()
            self._reaper.setopt(pycurl.NOSIGNAL, 1)
            self._reaper.setopt(pycurl.URL, "http://localhost/")
            self._reaper.setopt(pycurl.UNIX_SOCKET_PATH, "/dev/null/none")
        elif self._reaping:
            return
        self._reaping = True
        self.active += 1
        self.in_libcurl = True
        self._add_handle(self._reaper)
        self.in_libcurl, self._due_now = False, False
        self.drive(_TIMEOUT)

    # ---- transfers

    def drive(self, events: Sequence[tuple[int, int]]) -> None:
        """Pass events to libcurl, then pass its results to the sinks."""
        act, running, monotonic = self._socket_action, self.active, clock.monotonic
        self.in_libcurl = True
        end_s = monotonic() + SHARE_S
        waiting = iter(events)
        for fd, mask in waiting:
            running = act(fd, mask)[1]
            if monotonic() >= end_s:
                self._pending_events.extend(waiting)  # level-triggered: the epoll stays readable
        for _ in range(8):
            if not self._due_now:
                break
            self._due_now = False
            running = act(_SOCKET_TIMEOUT, 0)[1]
        self.in_libcurl = False
        if self._due_now:
            self._due_now = False
            self._loop.add_callback(self._drive_again)
        if running < self.active or self.ready_slots or self._resumes:
            self._flush()

    def _drive_again(self) -> None:
        if not self._closed:
            self.drive(_TIMEOUT)

    def _flush(self) -> None:
        if self._flushing or self._closed:
            return
        self._flushing = True
        ready, self.ready_slots = self.ready_slots, []
        ended, self._ended = self._ended, []
        while True:
            left, succeeded, failed = self._info_read()
            for curl in succeeded:
                self._finish(curl, 0, "", ended)
            for curl, errno, message in failed:
                self._finish(curl, errno, message, ended)
            if not left:
                break
        end_s, monotonic = clock.monotonic() + SHARE_S, clock.monotonic
        waiting = iter(ready)
        for slot in waiting:
            slot.ready = False
            slot.insize = 0
            sink, gen = slot.sink, slot.gen
            if slot.state == ACTIVE and sink is not None:
                try:
                    sink.on_progress(slot)
                except Exception:  # rescue door: one broken exchange must not stop the others
                    self._broken(slot, gen, sink)
                if slot.state == ACTIVE and (slot.unfinished or slot.paused or slot.read_paused):
                    self._after_progress(slot)
                if monotonic() >= end_s:
                    self.ready_slots[:0] = [slot for slot in waiting if slot.ready]  # else cancelled since
        over = iter(ended)
        for slot, gen, errno, message in over:
            if slot.sink is not None and slot.gen == gen:  # else released, and acquired by another sink
                self._on_ended(slot, gen, errno, message)
                if monotonic() >= end_s:
                    self._ended[:0] = over
        self._flushing = False
        resumes, self._resumes = self._resumes, []
        for slot, gen in resumes:
            if slot.gen == gen:
                self.resume(slot)
        if self.ready_slots or self._ended:
            self._loop.add_callback(self._flush)

    def _on_ended(self, slot: Slot, gen: int, errno: int, message: str) -> None:
        sink = slot.sink
        assert sink is not None
        try:
            sink.on_done(slot, errno, message)  # the last chunks are still in slot.chunks
        except Exception:  # rescue door: one broken exchange must not stop the others
            self._broken(slot, gen, sink)
        if slot.gen == gen and slot.unfinished:
            slot.ended = errno, message
            if not slot.hold:
                self.reschedule(slot)

    def _broken(self, slot: Slot, gen: int, sink: Sink) -> None:
        """A sink raised: cancel its transfer and call `on_broken`, even if the sink already released the slot."""
        LOG.exception("exchange at %s", slot.pool.origin.decode("latin-1"))
        if slot.gen == gen:
            self.cancel(slot)
        self._loop.add_callback(sink.on_broken)

    def _after_progress(self, slot: Slot) -> None:
        if (slot.unfinished or slot.paused) and not slot.hold:  # paused for fairness only: continue in a later turn
            self.reschedule(slot)
        if slot.read_paused and slot.response is not None and slot.response.status >= 300:
            slot.read_paused = False  # libcurl 7.88 and 8.14 would wait for the body forever
            self._resumes.append((slot, slot.gen))

    def _finish(self, curl: Any, errno: int, message: str, done: list[Ended]) -> None:
        slot = self._slots.pop(curl, None)
        if slot is None:
            if curl is self._reaper:
                self._remove_handle(curl)
                self.active -= 1
                self._reaping = False
            else:
                self._finish_fetch(curl, errno, message)
            return
        slot.connect_s = GETINFO(curl, _CONNECT_TIME)
        if slot.connect_s != 0.0:  # a new connection; the owners of others are known
            fd = GETINFO(curl, _LAST_SOCKET)
            if fd >= 0:
                self._owners[fd] = slot.pool, os.fstat(fd).st_ino
        self._remove_handle(curl)
        self.active -= 1
        slot.state, slot.broken = DONE, errno == REWIND
        keys = slot.pool.key_filter
        if errno:
            message = without_route(message if keys is None else keys.text(message))
            if lacks_resources(errno, GETINFO(curl, pycurl.OS_ERRNO)):
                errno, message = NO_RESOURCES, f"no free file descriptor (curl {errno}: {message})"
        done.append((slot, slot.gen, errno, message))

    def reschedule(self, slot: Slot) -> None:
        """In a later turn, call the sink again or let libcurl deliver more data."""
        if not slot.rescheduled:
            slot.rescheduled = True
            self._work.put(functools.partial(self._continue, slot, slot.gen))

    def _continue(self, slot: Slot, gen: int) -> None:
        if slot.gen != gen or slot.sink is None or self._closed:
            return
        slot.rescheduled = False
        if slot.hold:  # `unhold` will be called
            return
        if slot.unfinished and slot.ended is not None:
            self._ended.append((slot, gen, *slot.ended))
            self._flush()
        elif slot.state == ACTIVE and slot.unfinished:
            if not slot.ready:
                slot.ready = True
                self.ready_slots.append(slot)
            self._flush()
        elif slot.paused:
            slot.paused = False
            self.resume(slot)

    def resume(self, slot: Slot) -> None:
        """Resume a paused transfer."""
        if slot.state != ACTIVE:
            return
        if self.in_libcurl or self._flushing:
            self._resumes.append((slot, slot.gen))
            return
        self.in_libcurl = True
        with contextlib.suppress(pycurl.error):  # it failed while paused; info_read reports the failure
            slot.curl.pause(pycurl.PAUSE_CONT)  # may call every callback right here
        self.in_libcurl, self._due_now = False, False
        self.drive(_TIMEOUT)

    def start(self, slot: Slot, sink: Sink) -> None:
        """Begin a transfer; during a flush, in the next turn."""
        slot.gen += 1
        slot.sink, slot.state = sink, ACTIVE
        if not self._starting:
            self._loop.add_callback(self.begin)
        self._starting.append((slot, slot.gen))

    def begin(self) -> None:
        """Begin all transfers requested in this turn."""
        starting, self._starting = self._starting, []
        if self._closed or not starting:
            return
        self.in_libcurl = True
        for slot, gen in starting:
            if slot.gen == gen and slot.state == ACTIVE:  # else cancelled before the begin
                self.active += 1
                self._slots[slot.curl] = slot
                self._add_handle(slot.curl)
        self.in_libcurl, self._due_now = False, False
        self.drive(_TIMEOUT)

    def cancel(self, slot: Slot) -> None:
        """Cancel a transfer at once; its sink is not called again. The caller releases the slot."""
        if slot.state != ACTIVE:
            return
        assert not self.in_libcurl, "sinks run after socket_action has returned"
        slot.state, slot.sink = DONE, None
        slot.gen += 1
        if self._slots.pop(slot.curl, None) is not None:
            self.active -= 1
            self.in_libcurl = True
            self._remove_handle(slot.curl)
            self.in_libcurl = False
            if self._due_now:  # another transfer is due at this very moment
                self._due_now = False
                self._loop.add_callback(self._drive_again)
        if slot.ready:
            slot.ready = False
            if slot in self.ready_slots:
                self.ready_slots.remove(slot)

    def retire(self, name: Name) -> None:
        """The name has new addresses: close its idle connections, and the others when their transfers end."""
        for slot in (*self._slots.values(), *(slot for slot, _ in self._starting)):
            if slot.pool.name is name:
                slot.fresh = 2  # the next transfer of the slot sets the option again
                slot.curl.setopt(pycurl.FORBID_REUSE, 1)
        for fd, (pool, inode) in list(self._owners.items()):
            if pool.name is name and not self._masks.get(fd):
                del self._owners[fd]
                with contextlib.suppress(OSError):
                    if os.fstat(fd).st_ino == inode:  # else libcurl closed it, and the number was reused
                        with socket.socket(fileno=os.dup(fd)) as connection:  # libcurl then drops the dead connection
                            connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cancel all transfers and remove the driver from the loop."""
        self._closed = True
        self.names.close()
        for slot in list(self._slots.values()):
            self.cancel(slot)
        if self._armed is not None:
            self._loop.remove_timeout(self._armed)
            self._armed = None
        if self._reap_timer is not None:
            self._loop.remove_timeout(self._reap_timer)
        if self._reaper is not None:
            if self._reaping:
                self._remove_handle(self._reaper)
            self._reaper.close()
        self._loop.remove_handler(self._epoll.fileno())
        self._epoll.close()
