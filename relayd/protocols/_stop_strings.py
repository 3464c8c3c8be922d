"""Stop strings that an endpoint does not take: the answer ends at them here.

Laws:
1. Text is held back only as long as it may be the beginning of a stop string, and never longer than one.
2. Behind a stop string nothing of that choice is told any more but its end. The endpoint's answer is read to its end
   all the same: only then its usage is known, and whether it was cut.
3. A stop string is looked for within text that nothing else interrupts.
"""

from __future__ import annotations

from relayd.protocols.canon import End, Event, Failure, Finish, TextDelta
from relayd.protocols.dialect import Refused

MOST_STOPS = 64
MOST_CHARS = 4096  # of all of them


def watched(stops: tuple[str, ...]) -> StopStrings | None:
    """Who ends an answer at these; None for none."""
    return StopStrings(stops) if stops else None


def require_few(stops: tuple[str, ...]) -> None:
    """Refuse so many that looking for them takes long."""
    if len(stops) > MOST_STOPS or sum(map(len, stops)) > MOST_CHARS:
        raise Refused(f"At most {MOST_STOPS} stop strings of together {MOST_CHARS} characters can be sent.", "stop",
                      "array_too_long")  # fmt: skip


class StopStrings:
    """Ends the choices of one answer; owned by its reader."""

    __slots__ = ("_held", "_met", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held: dict[int, str] = {}  # by choice: what may be the beginning of a stop string
        self._met: dict[int, str] = {}  # by choice: the stop string that ended it

    def passed(self, events: list[Event]) -> list[Event]:
        """What of these events is told."""
        told: list[Event] = []
        for event in events:
            choice = getattr(event, "choice", None)
            if choice is None:
                if isinstance(event, End | Failure):
                    told += (TextDelta(held, place) for place, held in self._held.items())
                    self._held.clear()
                told.append(event)
            elif choice in self._met:
                if isinstance(event, Finish):
                    told.append(Finish("stop", choice, self._met[choice]))
            elif isinstance(event, TextDelta):
                self._text(event, told)
            else:
                if held := self._held.pop(choice, ""):
                    told.append(TextDelta(held, choice))
                told.append(event)
        return told

    def _text(self, event: TextDelta, told: list[Event]) -> None:
        choice = event.choice
        text = self._held.pop(choice, "") + event.text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            end, self._met[choice] = min(found)
        else:
            end = min(_beginning(text, stop) for stop in self._stops)
            if end < len(text):
                self._held[choice] = text[end:]
        if end:
            told.append(event if text[:end] == event.text else TextDelta(text[:end], choice))


def _beginning(text: str, stop: str) -> int:
    """Where at the end of a text this stop string may have begun; its length where it has not."""
    place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while place >= 0:
        if stop.startswith(text[place:]):
            return place
        place = text.find(stop[0], place + 1)
    return len(text)
