"""The answer to a request for the admin application that is made in several turns of the event loop."""

from __future__ import annotations

import logging

from relayd.proxy.application import CompletedHandler, Responder, send_answer
from relayd.proxy.respond import Answer
from relayd.proxy.steps import CallLater, Work
from relayd.wire.json_steps import Steps

LOG = logging.getLogger("relayd.admin")


class SteppedAnswer(CompletedHandler):
    """One answer; owned by its exchange. It is sent in the turn in which its steps end, which may be the first one."""

    def __init__(self, responder: Responder, steps: Steps[Answer], call_later: CallLater) -> None:
        self._responder: Responder | None = responder
        self._answer: Answer | None = None
        self._work = Work(self._run(steps), call_later, self._respond)
        if self._work.turn():
            self._respond()

    def _run(self, steps: Steps[Answer]) -> Steps[None]:
        try:
            self._answer = yield from steps
        except Exception:  # rescue door: after a fault in a later turn the client would wait for ever
            LOG.exception("an answer of the admin application")

    def _respond(self) -> None:
        responder, self._responder = self._responder, None
        if responder is None:
            return
        if self._answer is None:
            responder.fail()
        else:
            send_answer(responder, self._answer)

    def close(self) -> None:
        """The exchange is over."""
        self._responder = None
        self._work.cancel()
