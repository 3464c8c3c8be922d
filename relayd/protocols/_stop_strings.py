"""Stop strings that an endpoint does not support: relayd ends the response at them.

Laws:
1. Text is buffered only while it may be the beginning of a stop string, and at most the length of one.
2. After a stop string, only the Finish event of that choice is passed on. The endpoint's response is still read to its
   end, because only then its usage is known and a cut is detected.
3. A stop string is matched within contiguous text only.
"""

from __future__ import annotations

from relayd.protocols.canon import End, Event, Failure, Finish, TextDelta
from relayd.protocols.dialect import Refused

MOST_STOPS = 64
MOST_CHARS = 4096  # of all stop strings together


def stop_filter(stops: tuple[str, ...]) -> StopStringFilter | None:
    """The filter for these stop strings; None if there are none."""
    return StopStringFilter(stops) if stops else None


def require_stop_limits(stops: tuple[str, ...]) -> None:
    """Raise Refused for stop strings too many or too long to match quickly."""
    if len(stops) > MOST_STOPS or sum(map(len, stops)) > MOST_CHARS:
        raise Refused(f"At most {MOST_STOPS} stop strings of together {MOST_CHARS} characters can be sent.", "stop",
                      "array_too_long")  # fmt: skip


class StopStringFilter:
    """Ends the choices of one response at stop strings; owned by its reader."""

    __slots__ = ("_buffered", "_matched", "_stops")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._buffered: dict[int, str] = {}  # by choice: a possible beginning of a stop string
        self._matched: dict[int, str] = {}  # by choice: the stop string that ended it

    def filter(self, events: list[Event]) -> list[Event]:
        """The events to pass on."""
        out: list[Event] = []
        for event in events:
            choice = getattr(event, "choice", None)
            if choice is None:
                if isinstance(event, End | Failure):
                    out += (TextDelta(text, position) for position, text in self._buffered.items())
                    self._buffered.clear()
                out.append(event)
            elif choice in self._matched:
                if isinstance(event, Finish):
                    out.append(Finish("stop", choice, self._matched[choice]))
            elif isinstance(event, TextDelta):
                self._filter_text(event, out)
            else:
                if text := self._buffered.pop(choice, ""):
                    out.append(TextDelta(text, choice))
                out.append(event)
        return out

    def _filter_text(self, event: TextDelta, out: list[Event]) -> None:
        choice = event.choice
        text = self._buffered.pop(choice, "") + event.text
        found = [(position, stop) for stop in self._stops if (position := text.find(stop)) >= 0]
        if found:
            end, self._matched[choice] = min(found)
        else:
            end = min(_partial_match(text, stop) for stop in self._stops)
            if end < len(text):
                self._buffered[choice] = text[end:]
        if end:
            out.append(event if text[:end] == event.text else TextDelta(text[:end], choice))


def _partial_match(text: str, stop: str) -> int:
    """The position at which this stop string may begin at the end of a text; the text's length if it does not."""
    position = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while position >= 0:
        if stop.startswith(text[position:]):
            return position
        position = text.find(stop[0], position + 1)
    return len(text)
