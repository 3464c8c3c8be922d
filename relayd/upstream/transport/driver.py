"""The driver: one CurlMulti, one private epoll, one lazy timer; moves every transfer of the process.

Laws:
1. Nothing calls pycurl while `busy` (inside libcurl); sinks run only after socket_action has returned (`_flush`).
2. libcurl's descriptors are watched by the private epoll, never by the loop: libcurl closes them on its own.
3. An idle kept connection stays in the epoll with an empty mask; an event on it means that the peer closed it.
4. Cancel takes effect at once: remove_handle closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
5. What is asked for in one turn of the loop begins together, in the next: one call makes libcurl send all of it, which
   costs a third less than a call for each.
6. One turn of the loop has bounded work: after SHARE_S of it, descriptors that are ready and sinks that have not been
   called wait for the next turn, before everything that comes then.
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
from relayd.upstream.transport.faults import REWIND
from relayd.upstream.transport.names import Name, Names, without_route
from relayd.upstream.transport.slot import ACTIVE, DONE, Lender, Sink, Slot
from relayd.work_queue import WorkQueue

LOG = logging.getLogger("relayd.transport")
CLEAN_AFTER_S = 1.2
SHARE_S = 0.005
_TIMEOUT = ((pycurl.SOCKET_TIMEOUT, 0),)
_SOCKET_TIMEOUT: int = pycurl.SOCKET_TIMEOUT
_REMOVE: int = pycurl.POLL_REMOVE
_CONNECT_TIME: int = pycurl.CONNECT_TIME
_LAST_SOCKET: int = pycurl.LASTSOCKET

Ended = tuple[Slot, int, int, str]  # with its gen, errno and libcurl's text


class Driver:
    """Owned by StreamClient; everything here runs on its loop."""

    def __init__(
        self, loop: IOLoop, multi: Any, finish_fetch: Callable[[Any, int, str], None], work: WorkQueue
    ) -> None:
        self.touched: list[Slot] = []
        self.active = 0
        self.http1_origins: set[bytes] = set()  # over TLS, where a connection may be one of HTTP/1.1
        self.busy = False
        self._loop, self._multi, self._finish_fetch, self._work = loop, multi, finish_fetch, work
        self._epoll = select.epoll()
        self._masks: dict[int, int] = {}  # descriptor -> epoll mask; 0 = parked
        self._owners: dict[int, tuple[Lender, int]] = {}  # descriptor -> pool, and the inode of the socket
        self.names = Names(loop, self)
        self._resumes: list[tuple[Slot, int]] = []
        self._starting: list[tuple[Slot, int]] = []
        self._ended: list[Ended] = []
        self._ready: list[tuple[int, int]] = []  # what the last turn had no time for
        self._slots: set[Slot] = set()
        self._flushing = self._kick = self._closed = False
        self._deadline: float | None = None
        self._armed: object | None = None
        self._cleaning: object | None = None
        self._janitor: Any = None
        self._sweeping = False
        self._armed_at = 0.0
        multi.setopt(pycurl.M_MAXCONNECTS, 4096)
        multi.setopt(pycurl.M_PIPELINING, 2)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self.on_socket)
        multi.setopt(pycurl.M_TIMERFUNCTION, self.on_timer)
        loop.add_handler(self._epoll.fileno(), self._on_ready, loop.READ)

    # ---- libcurl's callbacks

    def on_socket(self, what: int, fd: int, multi: Any = None, data: Any = None) -> None:
        """What libcurl wants to know of a descriptor."""
        if self._closed:  # the multi says good-bye to HTTP/2 connections while it is closed
            return
        masks = self._masks
        if what == _REMOVE:
            if masks.get(fd, 0) & 4:  # else the mask already says: readable, or hung up
                with contextlib.suppress(OSError):
                    self._epoll.modify(fd, select.EPOLLIN)
            masks[fd] = 0
            return
        mask = (what & 1) | (what & 2) << 1  # POLL_IN=1 POLL_OUT=2 -> EPOLLIN=1 EPOLLOUT=4
        try:
            if fd in masks:
                self._epoll.modify(fd, mask)
            else:
                self._epoll.register(fd, mask)
        except FileExistsError:
            self._epoll.modify(fd, mask)
        except OSError:  # ENOENT: the number was closed and is used again
            self._epoll.register(fd, mask)
        masks[fd] = mask

    def on_timer(self, milliseconds: int) -> None:
        """When libcurl wants to be called."""
        if milliseconds < 0:
            self._deadline = None
            return
        deadline = self._deadline = clock.monotonic() + milliseconds / 1000
        if milliseconds == 0:
            self._kick = True
            if self.busy:
                return
        if self._armed is not None:
            if self._armed_at <= deadline:
                return  # fires early and arms itself again
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
        self._arm_again()

    def _arm_again(self) -> None:
        """libcurl tells a deadline once; what it still waits for must not be forgotten."""
        if self._armed is None and (rest := self._multi.timeout()) >= 0:
            self.on_timer(max(rest, 1))

    def _on_ready(self, fd: Any, events: int) -> None:
        todo, self._ready = self._ready, []
        if todo:  # an event on a parked descriptor comes again
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
            owner[0].eof_at = clock.monotonic()
        if self._cleaning is None:
            self._cleaning = self._loop.call_later(CLEAN_AFTER_S, self._clean)
        with contextlib.suppress(OSError):
            self._epoll.unregister(fd)

    def _clean(self) -> None:
        """Make libcurl close kept connections that are dead.

        It looks for them only when it begins a transfer, at most once a second; without one their descriptors would
        stay. The transfer begun here names a Unix socket that cannot exist, and so ends before it does anything.
        """
        self._cleaning = None
        if self._janitor is None:
            self._janitor = pycurl.Curl()
            self._janitor.setopt(pycurl.NOSIGNAL, 1)
            self._janitor.setopt(pycurl.URL, "http://localhost/")
            self._janitor.setopt(pycurl.UNIX_SOCKET_PATH, "/dev/null/none")
            self._janitor.slot = None
        elif self._sweeping:
            return
        self._sweeping = True
        self.active += 1
        self.busy = True
        self._multi.add_handle(self._janitor)
        self.busy, self._kick = False, False
        self.drive(_TIMEOUT)

    # ---- moving

    def drive(self, events: Sequence[tuple[int, int]]) -> None:
        """Tell libcurl what happened, then hand on what it brought."""
        act, running = self._multi.socket_action, self.active
        self.busy = True
        end_s = clock.monotonic() + SHARE_S if len(events) > 1 else 0.0
        for place, (fd, mask) in enumerate(events, 1):
            running = act(fd, mask)[1]
            if end_s and clock.monotonic() >= end_s:
                self._ready.extend(events[place:])  # level-triggered: the epoll stays readable
                break
        for _ in range(8):
            if not self._kick:
                break
            self._kick = False
            running = act(_SOCKET_TIMEOUT, 0)[1]
        self.busy = False
        if self._kick:
            self._kick = False
            self._loop.add_callback(self._drive_again)
        if running < self.active or self.touched or self._resumes:
            self._flush()

    def _drive_again(self) -> None:
        if not self._closed:
            self.drive(_TIMEOUT)

    def _flush(self) -> None:
        if self._flushing or self._closed:
            return
        self._flushing = True
        touched, self.touched = self.touched, []
        ended, self._ended = self._ended, []
        while True:
            left, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._finish(curl, 0, "", ended)
            for curl, errno, message in failed:
                self._finish(curl, errno, message, ended)
            if not left:
                break
        end_s = clock.monotonic() + SHARE_S
        for place, slot in enumerate(touched, 1):
            slot.touched = False
            slot.insize = 0
            sink, gen = slot.sink, slot.gen
            if slot.state == ACTIVE and sink is not None:
                try:
                    sink.on_progress(slot)
                except Exception:  # rescue door: one broken exchange must not stop the others
                    self._broken(slot, gen, sink)
                self._after_progress(slot)
                if place < len(touched) and clock.monotonic() >= end_s:
                    self.touched[:0] = [slot for slot in touched[place:] if slot.touched]  # else cancelled since
                    break
        for place, (slot, gen, errno, message) in enumerate(ended, 1):
            if slot.sink is not None and slot.gen == gen:  # else given back, and lent again, by another sink
                self._on_ended(slot, gen, errno, message)
                if place < len(ended) and clock.monotonic() >= end_s:
                    self._ended[:0] = ended[place:]
                    break
        self._flushing = False
        resumes, self._resumes = self._resumes, []
        for slot, gen in resumes:
            if slot.gen == gen:
                self.resume(slot)
        if self.touched or self._ended:
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
                self.go_on(slot)

    def _broken(self, slot: Slot, gen: int, sink: Sink) -> None:
        """A sink has raised: its transfer ends, and it is told so, even if it gave the slot back before."""
        LOG.exception("exchange at %s", slot.pool.origin.decode("latin-1"))
        if slot.gen == gen:
            self.cancel(slot)
        self._loop.add_callback(sink.on_broken)

    def _after_progress(self, slot: Slot) -> None:
        if slot.state != ACTIVE:
            return
        if (slot.unfinished or slot.paused) and not slot.hold:  # paused for fairness only: go on in a later turn
            self.go_on(slot)
        if slot.read_paused and slot.response is not None and slot.response.status >= 300:
            slot.read_paused = False  # libcurl 7.88 and 8.14 would wait for the body for ever
            self._resumes.append((slot, slot.gen))

    def _finish(self, curl: Any, errno: int, message: str, done: list[Ended]) -> None:
        slot: Slot | None = getattr(curl, "slot", None)
        if slot is None:
            if curl is self._janitor:
                self._multi.remove_handle(curl)
                self.active -= 1
                self._sweeping = False
            else:
                self._finish_fetch(curl, errno, message)
            return
        slot.connect_s = curl.getinfo(_CONNECT_TIME)
        if slot.connect_s != 0.0:  # a new connection; of others it is known whose they are
            fd = curl.getinfo(_LAST_SOCKET)
            if fd >= 0:
                self._owners[fd] = slot.pool, os.fstat(fd).st_ino
        self._multi.remove_handle(curl)
        self.active -= 1
        self._slots.discard(slot)
        slot.state, slot.broken = DONE, errno == REWIND
        keys = slot.pool.key_filter
        if errno:
            message = without_route(message if keys is None else keys.text(message))
        done.append((slot, slot.gen, errno, message))

    def go_on(self, slot: Slot) -> None:
        """In a later turn let the sink take up its work again, or libcurl hand over more."""
        if not slot.will_go_on:
            slot.will_go_on = True
            self._work.put(functools.partial(self._go_on, slot, slot.gen))

    def _go_on(self, slot: Slot, gen: int) -> None:
        if slot.gen != gen or slot.sink is None or self._closed:
            return
        slot.will_go_on = False
        if slot.hold:  # `unhold` will come
            return
        if slot.unfinished and slot.ended is not None:
            self._ended.append((slot, gen, *slot.ended))
            self._flush()
        elif slot.state == ACTIVE and slot.unfinished:
            if not slot.touched:
                slot.touched = True
                self.touched.append(slot)
            self._flush()
        elif slot.paused:
            slot.paused = False
            self.resume(slot)

    def resume(self, slot: Slot) -> None:
        """Let a paused transfer go on."""
        if slot.state != ACTIVE:
            return
        if self.busy or self._flushing:
            self._resumes.append((slot, slot.gen))
            return
        self.busy = True
        with contextlib.suppress(pycurl.error):  # it failed while it was paused: info_read tells
            slot.curl.pause(pycurl.PAUSE_CONT)  # may call every callback right here
        self.busy, self._kick = False, False
        self.drive(_TIMEOUT)

    def start(self, slot: Slot, sink: Sink) -> None:
        """Begin a transfer; during a flush, in the next turn."""
        slot.gen += 1
        slot.sink, slot.state = sink, ACTIVE
        if not self._starting:
            self._loop.add_callback(self.begin)
        self._starting.append((slot, slot.gen))

    def begin(self) -> None:
        """Begin what was asked for in this turn, in one go."""
        starting, self._starting = self._starting, []
        if self._closed or not starting:
            return
        self.busy = True
        for slot, gen in starting:
            if slot.gen == gen and slot.state == ACTIVE:  # else cancelled before it began
                self.active += 1
                self._slots.add(slot)
                self._multi.add_handle(slot.curl)
        self.busy, self._kick = False, False
        self.drive(_TIMEOUT)

    def cancel(self, slot: Slot) -> None:
        """End a transfer at once; nothing more is heard of it. The caller gives the slot back."""
        if slot.state != ACTIVE:
            return
        assert not self.busy, "sinks run after socket_action has returned"
        slot.state, slot.sink = DONE, None
        slot.gen += 1
        if slot in self._slots:
            self._slots.discard(slot)
            self.active -= 1
            self.busy = True
            self._multi.remove_handle(slot.curl)
            self.busy = False
            if self._kick:  # another transfer is due at this very moment
                self._kick = False
                self._loop.add_callback(self._drive_again)
        if slot.touched:
            slot.touched = False
            if slot in self.touched:
                self.touched.remove(slot)

    def retire(self, name: Name) -> None:
        """The name has new addresses: close its idle connections, and the others when their transfers end."""
        for slot in (*self._slots, *(slot for slot, _ in self._starting)):
            if slot.pool.name is name:
                slot.fresh = 2  # the next transfer of the slot sets it anew
                slot.curl.setopt(pycurl.FORBID_REUSE, 1)
        for fd, (pool, inode) in list(self._owners.items()):
            if pool.name is name and not self._masks.get(fd):
                del self._owners[fd]
                with contextlib.suppress(OSError):
                    if os.fstat(fd).st_ino == inode:  # else libcurl has closed it, and the number is another's
                        with socket.socket(fileno=os.dup(fd)) as line:  # libcurl sees a dead connection, and drops it
                            line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cancel everything and leave the loop."""
        self._closed = True
        self.names.close()
        for slot in list(self._slots):
            self.cancel(slot)
        if self._armed is not None:
            self._loop.remove_timeout(self._armed)
            self._armed = None
        if self._cleaning is not None:
            self._loop.remove_timeout(self._cleaning)
        if self._janitor is not None:
            if self._sweeping:
                self._multi.remove_handle(self._janitor)
            self._janitor.close()
        self._loop.remove_handler(self._epoll.fileno())
        self._epoll.close()
