"""Proof that a regular expression takes linear time on the path of any request, or the reason why it may not.

1. Python's matcher backtracks: it tries one match through the pattern after another. Its work on a path is at most the
   sum, over all prefixes of the path, of the number of ways to match the prefix. So a pattern is linear if the number
   of ways to match any one prefix is bounded.
2. The bound is found by exploration: a state contains, for each position of the pattern, the number of ways to reach
   it. All reachable states are visited. A pattern with more than MAX_WAYS ways or MAX_STATES states is rejected.
3. The model is conservative: an anchor, an atomic group or a possessive group can only reduce the number of ways. That
   the first match ends the search is used for one form only: a final `.*`, which matches the rest of the path.
4. The size of {n,m} is bounded before it is expanded, and it is expanded before compilation.

Reference: Weideman et al., Analyzing matching time behavior of backtracking regular expression matchers (CIAA 2016).
"""

from __future__ import annotations

import functools
import heapq
import re
import warnings
from collections.abc import Iterator

from relayd.dataclass import dataclass
from relayd.wire.regex import (
    ALPHABET,
    BITS,
    EVERY,
    MAX_CHARS,
    Chars,
    Choice,
    Node,
    Repeat,
    Sequence,
    Unsupported,
    parse,
)

MAX_WAYS = 16
MAX_TRIES = 256
MAX_POSITIONS = 1024
MAX_STATES = 4096
MAX_WORK = 400_000

# _Ends: from a position and the bytes that may follow to a number of ways. _State: positions and numbers of ways.
_Ends = dict[tuple[int, int], int]
_State = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the pattern: its possible first and last positions, and the number of ways to match the empty text.

    Each end includes the set of bytes that may follow: a possessive repetition ends only before a byte that it does not
    match.
    """

    first: _Ends
    last: _Ends
    empty: dict[int, int]


_NOTHING = _Part({}, {}, {EVERY: 1})


def _size(node: Node) -> int:
    """The number of positions of the expanded pattern."""
    if isinstance(node, Chars):
        return 1
    if isinstance(node, Repeat):
        return max(node.least, 1 if node.most is None else node.most, 1) * _size(node.body)
    return sum(map(_size, node.parts))


def _nullable(node: Node) -> bool:
    if isinstance(node, Chars):
        return False
    if isinstance(node, Repeat):
        return node.least == 0 or _nullable(node.body)
    return (all if isinstance(node, Sequence) else any)(map(_nullable, node.parts))


def _plus(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _added(one: _Ends, other: _Ends) -> _Ends:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}} if one and other else one or other


def _through(ends: _Ends, empty: dict[int, int]) -> _Ends:
    """The ends passed through a part that matches the empty text."""
    made: _Ends = {}
    for (position, guard), ways in ends.items():
        for other, more in empty.items():
            made[position, guard & other] = made.get((position, guard & other), 0) + ways * more
    return made


class _Automaton:
    """The positions of one pattern and their successors. Owned by one proof."""

    def __init__(self, tree: Node) -> None:
        self.masks: list[int] = []
        self.repeats: list[Repeat | None] = []
        self.follow: list[_Ends] = []
        self.work = 0
        self._inside: list[Repeat] = []
        self.whole = self._build(tree)
        ends = {position for position, _ in self.whole.last}
        self.absorbing = {
            position for position in ends
            if self.masks[position] == EVERY and self.follow[position] == {(position, EVERY): 1}
        }

    def spend(self, amount: int) -> None:
        self.work += amount
        if self.work > MAX_WORK:
            raise Unsupported(1, "too many combinations to examine; simplify the pattern")

    def _link(self, last: _Ends, first: _Ends) -> None:
        self.spend(len(last) * len(first))
        for (position, guard), ways in last.items():
            follow = self.follow[position]
            for (following, other), more in first.items():
                if guard & other & self.masks[following]:
                    key = following, guard & other
                    follow[key] = follow.get(key, 0) + ways * more

    def _build(self, node: Node) -> _Part:
        self.spend(1)
        if isinstance(node, Chars):
            position = len(self.masks)
            self.masks.append(node.mask)
            self.repeats.append(self._inside[-1] if self._inside else None)
            self.follow.append({})
            return _Part({(position, EVERY): 1}, {(position, EVERY): 1}, {})
        if isinstance(node, Sequence):
            made = _NOTHING
            for part in node.parts:
                made = self._behind(made, self._build(part))
            return made
        if isinstance(node, Choice):
            made = self._build(node.parts[0])
            for part in node.parts[1:]:
                made = self._beside(made, self._build(part))
            return made
        self._inside.append(node)
        made = self._repeat(node)
        self._inside.pop()
        return made

    def _behind(self, one: _Part, other: _Part) -> _Part:
        self._link(one.last, other.first)
        self.spend(len(one.last) + len(other.first))
        empty: dict[int, int] = {}
        for guard, ways in one.empty.items():
            for second, more in other.empty.items():
                empty[guard & second] = empty.get(guard & second, 0) + ways * more
        first = _added(one.first, _through(other.first, one.empty))
        return _Part(first, _added(other.last, _through(one.last, other.empty)), empty)

    def _beside(self, one: _Part, other: _Part) -> _Part:
        self.spend(len(other.first) + len(other.last))
        return _Part(_added(one.first, other.first), _added(one.last, other.last), _plus(one.empty, other.empty))

    def _repeat(self, node: Repeat) -> _Part:
        body, least, most = node.body, node.least, node.most
        if most != 1 and _nullable(body):
            raise Unsupported(node.position, f"a repetition of a part that can match the empty text, {_cut(node.text)}")
        # A possessive repetition of one byte ends before a byte that it does not match. Others are treated as greedy.
        leave = EVERY & ~body.mask if node.possessive and isinstance(body, Chars) else EVERY
        if most is None:
            rest = self._build(body)
            self._link(rest.last, rest.first)
            rest = _Part(rest.first, _through(rest.last, {leave: 1}), rest.empty)
            optional, copies = least == 0, max(least - 1, 0)
            if optional:
                rest = self._beside(rest, _Part({}, {}, {leave: 1}))
        else:
            rest, copies = _NOTHING, least
            for _ in range(most - least):
                rest = self._beside(self._behind(self._build(body), rest), _Part({}, {}, {leave: 1}))
        for _ in range(copies):
            rest = self._behind(self._build(body), rest)
        return rest

    # ---- exploration

    def symbols(self) -> list[int]:
        """One byte's bit for each class of bytes that no set of the pattern distinguishes."""
        masks = {guard for ends in (*self.follow, self.whole.first) for _, guard in ends} | set(self.masks)
        classes: dict[tuple[bool, ...], int] = {}
        for code in b"aA0/-" + ALPHABET:
            bit = BITS[code]
            classes.setdefault(tuple(bool(mask & bit) for mask in masks), bit)
        return list(classes.values())

    def overload(self) -> _State | None:
        """A reachable state that exceeds MAX_WAYS or MAX_TRIES; None if there is none."""
        symbols = self.symbols()
        first = self._after(((-1, 1),), symbols)
        seen: set[_State] = set()
        queue: list[tuple[int, int, _State]] = []
        for state in first:
            heapq.heappush(queue, (0, len(queue), state))
        while queue:
            state = heapq.heappop(queue)[2]
            if state in seen:
                continue
            seen.add(state)
            if len(seen) > MAX_STATES:
                self.spend(MAX_WORK + 1)
            ways = sum(count for _, count in state)
            tries = sum(count * len(self.follow[position]) for position, count in state)
            if ways > MAX_WAYS or tries > MAX_TRIES:
                return state
            for following in self._after(state, symbols):
                if following not in seen:
                    more = sum(count for _, count in following)
                    heapq.heappush(queue, (-more, len(seen) + len(queue), following))
        return None

    def _after(self, state: _State, symbols: list[int]) -> Iterator[_State]:
        edges = [
            (following, guard & self.masks[following], count * ways)
            for position, count in state
            for (following, guard), ways in (self.whole.first if position < 0 else self.follow[position]).items()
            if following not in self.absorbing
        ]
        self.spend(len(symbols) * (1 + len(edges)))
        for bit in symbols:
            made: dict[int, int] = {}
            for following, mask, count in edges:
                if mask & bit:
                    made[following] = made.get(following, 0) + count
            if made:
                yield tuple(sorted(made.items()))

    def overlapping(self, state: _State) -> list[Repeat]:
        """The repetitions that match the same text in this state, in descending order of ways."""
        counts: dict[int, tuple[int, Repeat]] = {}
        for position, count in state:
            repeat = self.repeats[position]
            if repeat is not None:
                counts[repeat.position] = counts.get(repeat.position, (0, repeat))[0] + count, repeat
        return [repeat for _, repeat in sorted(counts.values(), key=lambda one: -one[0])]

    def possible(self) -> bool:
        """True if some path in normal form matches: searches the product with the automaton of such paths."""
        seen: set[tuple[int, str]] = set()
        queue = [(-1, "start")]
        while queue:
            position, form = queue.pop()
            ends = self.whole.first if position < 0 else self.follow[position]
            for following, guard in ends:
                mask = guard & self.masks[following]
                for code in ALPHABET:
                    if mask & BITS[code] and (after := _FORMS.get((form, code))) and (following, after) not in seen:
                        seen.add((following, after))
                        queue.append((following, after))
        return any((position, form) in seen for position, _ in self.whole.last for form in ("slash", "segment"))


def _normal_forms() -> dict[tuple[str, int], str]:
    """The automaton of paths in normal form: transitions of `start`, `slash`, `segment`, `dot`, `%` and `%h`."""
    made = {("start", 0x2F): "slash", ("segment", 0x2F): "slash"}
    digits = b"0123456789ABCDEF"
    for form in ("slash", "segment", "dot"):
        made.update({(form, code): "segment" for code in ALPHABET if code not in b"/;\\%."})
        made[form, 0x2E] = "dot"
        made[form, 0x25] = "%"
    for high in digits:
        made["%", high] = f"%{chr(high)}"
        for low in digits:
            code = int(chr(high) + chr(low), 16)
            if code and (code not in ALPHABET or code == 0x25):
                made[f"%{chr(high)}", low] = "segment"
    return made


_FORMS = _normal_forms()


@functools.lru_cache(4096)
def fault_of_regex(text: str) -> str | None:
    """Why this pattern cannot be used for paths; None if it is proven to take linear time.

    A proof takes milliseconds. The loader proves patterns in its own thread; the loop then uses the results.
    """
    if len(text) > MAX_CHARS:
        return f"is longer than {MAX_CHARS} characters"
    if not text.isascii():
        return "contains a character that is not ASCII; in the path of a request it is percent-encoded (é is %C3%A9)"
    try:
        tree = parse(text)
        if (size := _size(tree)) > MAX_POSITIONS:
            return f"has {size} positions after expansion of its repetitions; the limit is {MAX_POSITIONS}"
    except Unsupported as refused:
        return _syntax_fault(text) or f"cannot be proven to take linear time: it has {refused}"
    if (fault := _syntax_fault(text)) is not None:
        return fault
    try:
        automaton = _Automaton(tree)
        state = automaton.overload()
    except Unsupported as refused:
        return f"cannot be proven to take linear time: it has {refused}"
    if state is not None:
        return _reason(automaton.overlapping(state))
    if not automaton.possible():
        return (
            "cannot match any path: a path begins with /, contains no ?, #, //, ; or backslash and no segments . "
            "and .., and has bytes other than printable ASCII encoded as %XX in upper case"
        )
    return None


def _syntax_fault(text: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(text.encode())
    except re.error as fault:
        at = "" if fault.pos is None else f" at character {fault.pos + 1}"
        return f"is not a regular expression: {fault.msg}{at}"
    except (OverflowError, RecursionError):
        return "is too large a regular expression"
    return None


def _reason(repeats: list[Repeat]) -> str:
    if not repeats:
        return "has alternatives that can match the same text; matching may take more than linear time"
    first = sorted(repeats[:2], key=lambda repeat: repeat.position)
    shown = " and ".join(f"{_cut(repeat.text)} at character {repeat.position}" for repeat in first)
    if len(repeats) == 1:
        return f"repeats {shown}, which can divide the same text in many ways; matching may take more than linear time"
    return f"has the repetitions {shown}, which can match the same text; matching may take more than linear time"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
