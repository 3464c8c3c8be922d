"""What an answer is to the course that asked for it: questions that change nothing.

The attempt asks them when a head has come, before the client sees any of it.
"""

from __future__ import annotations

from relayd.errors import ExchangeError
from relayd.plan.plan import Target
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Reader, Refused
from relayd.protocols.tap import Tap
from relayd.proxy.attempt import Attempt, Remover
from relayd.proxy.call import Call
from relayd.proxy.exchange import Exchange
from relayd.proxy.translation import Translation
from relayd.proxy.verdict import Outcome, field_of
from relayd.upstream.spec import AuthSpec
from relayd.wire.response import ResponseHead

TOLD_IN_BODIES = frozenset(("context_length", "refused_content", "any"))


class Judgement:
    """The half of a course that looks at answers; Course is the only kind."""

    __slots__ = ("_at", "_auth", "_call", "_done", "_exchange", "_request", "_targets", "_tries", "body", "whole")

    def __init__(
        self, exchange: Exchange, targets: tuple[Target, ...], call: Call | None, body: bytes | None, whole: bool
    ) -> None:
        self._exchange, self._targets, self._call = exchange, targets, call
        self.body, self.whole = body, whole
        self._at = self._tries = 0
        self._auth: AuthSpec | None = None
        self._request: Request | None = None
        self._done = False

    @property
    def target(self) -> Target:
        """Where the present attempt goes."""
        return self._targets[self._at]

    def wants_translation(self, response: ResponseHead) -> Translation | None:
        """How this answer is translated; None where it passes."""
        call, target = self._call, self.target
        if call is None or self._request is None or target.dialect is None or target.dialect.reader is None:
            return None
        reader = target.dialect.reader(self._request, target.upstream.spec.dialect, call.ask.memory, response.coding)
        call.renderer.answered_by(backend_name(self._exchange, target))
        return Translation(reader, call.renderer)

    def watch(self, response: ResponseHead) -> Reader | None:
        """A reader of the client's own dialect, where the stream could still be replaced by another one."""
        call = self._call
        if call is None or not call.stream or not call.translates or not self.may_go_on():
            return None
        if call.dialect.reader is None or not response.media.is_stream or response.coding:
            return None
        try:
            return call.dialect.reader(call.request, self.target.upstream.spec.dialect, call.ask.memory)
        except Refused:  # it passes as it is: the endpoint may well understand what relayd does not
            return None

    def remover(self, response: ResponseHead) -> Remover | None:
        """Usage that the client did not ask for is counted and taken out."""
        remover = self._call.remover() if self._call is not None and response.media.is_stream else None
        if remover is not None:
            response.length = None  # it becomes shorter
        return remover

    def tap(self, response: ResponseHead) -> Tap | None:
        """Tokens are counted where a dialect is spoken."""
        call = self._call
        tap_format = None if call is None or not call.counts else call.tap_format
        return None if tap_format is None else Tap(tap_format, response.coding)

    def holds_error(self, response: ResponseHead) -> bool:
        """Errors are read where something could become of them: another attempt, or words in a dialect."""
        if self._call is not None:
            return True
        if not self.may_go_on():
            return False
        verdict = Outcome("", response.status, field_of(response, b"retry-after")).verdict(self._auth is not None)
        if verdict.fault or self.target.upstream.retries.wanted(verdict):
            return True
        return any(one.on & TOLD_IN_BODIES for one in self._targets[self._at + 1 :])

    def doubts(self, response: ResponseHead) -> ExchangeError | None:
        """A plain answer that must be JSON and is a page of some proxy, or nothing."""
        call = self._call
        if call is None or not call.translates or self._exchange.head.method != b"POST":
            return None
        if response.length == 0:
            return ExchangeError("upstream_unreadable", "an empty answer")
        media = response.media
        if media.text and not (media.is_json or media.is_stream):
            return ExchangeError("upstream_unreadable", f"content type {media.text[:60]}")
        return None

    def ends_early(self, attempt: Attempt, response: ResponseHead) -> bool:
        """A stream without a length or chunks ends where its connection closes, whole or not: its words must tell."""
        if response.length is not None or response.chunked or attempt.tap is None or not response.media.is_stream:
            return False
        return not self._done and not attempt.tap.observed.finish

    def may_go_on(self) -> bool:
        """Whether another attempt could still be made."""
        policy = self.target.upstream.retries
        if not self.whole and self._exchange.head.has_body:
            return False
        return self._tries < policy.spec.attempts or self._at + 1 < len(self._targets)


def backend_name(exchange: Exchange, target: Target) -> str:
    """What an answer that names its back-end says: the upstream's name, or the route's name for it."""
    name = target.upstream.name
    return name if exchange.route is None else exchange.route.config.backend_names.get(name, name)
