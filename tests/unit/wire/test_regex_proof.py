"""A pattern that is accepted takes linear time on every path; the proof is held against a matcher that counts its steps."""

from __future__ import annotations

import re
from re import _parser as python_parser  # type: ignore[attr-defined]
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from relayd.wire.regex import ALPHABET, BITS, Unsupported, parse
from relayd.wire.regex_proof import MAX_POSITIONS, _Automaton, _size, fault_of_regex

USEFUL = [
    "/v1/(chat|responses)/.*", "/api/v[0-9]+/.*", "/files/[^/]+/(raw|meta)", r".*\.(png|jpg)", "(?i)/Admin/.*",
    "/item/(?P<id>[0-9]+)/(?P<rest>.*)", r"/[a-z0-9-]{1,63}\.example\.com", "/users/[0-9]+/posts/[0-9]+", "/a/.*/b",
    "/v1(?:beta)?/(models/[^/]+:[A-Za-z]+)", "/api/chat(/stream)?", "/v1/responses(/.*)?", "/.*/foo/.*", "(?:/[^/]++)*",
    "(?:/[^/]+)*/x", "^/v1/.*$", r"/[\w.-]+\.(css|js)", "/.+/.+", "/[a-z]++[0-9a-z]*", "/(?:en|de)?/?.*", "/(ab?)+", "/(a{1,3})x*",
    "/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/.*", "/.*/[0-9]{4}/[0-9]{2}/.*", "/[^/]{1,255}/x", "/v1/.*|/v2/.*",
    "/u/(?>[a-z]+)/x", "/(a|b|c)+/x", r"/caf%C3%A9/\d{1,4}", "/a?b?c?d", "/[*+(|]x", r"/\(a+\)+",
]

SLOW = {
    "/files/.*a.*a.*z": ".* at character 11 and .* at character 14",
    "/(?:[a-z0-9-]{1,63}[.]?){1,10}/x": "[a-z0-9-]{1,63} at character 5",
    "/(a|b|ab){1,99}!": "(a|b|ab){1,99} at character 2",
    "/(a+)+": "a+ at character 3",
    "/[a-z]*[a-z0-9]*x": "[a-z]* at character 2 and [a-z0-9]* at character 8",
    "/.*.*x": ".* at character 2 and .* at character 4",
    "/(a|a)*x": "(a|a)* at character 2",
    "/(a|ab|b)*x": "(a|ab|b)* at character 2",
    "/(?i:(a|A))*x": "(a|A))* at character 2",
    "/((a+)b?)*x": "a+ at character 4",
    "/a{0,200}a{0,200}x": "a{0,200} at character 2 and a{0,200} at character 10",
    "/" + "a?" * 40 + "x": "a? at character",
    "/(.*x){20}": ".* at character 3",
    "/.*[a-z]{1,63}x": ".* at character 2 and [a-z]{1,63} at character 4",
    "/(?:a*+a?)*x": "match the empty text",
    "/(a*)*x": "a part that can match the empty text, (a*)*, at character 2",
    "/(a?){50}x": "a part that can match the empty text, (a?){50}, at character 2",
    "/(|a)+x": "a part that can match the empty text, (|a)+, at character 2",
    "/(a{1,1000}){1,1000}": "1000001 positions",
    "/((a{1,100}){1,100}){1,100}": "positions",
    "/a{5000}": "5001 positions",
    "/" + "(?:(?:x*)?)?" * 20 + "y": "linear time",
    "/(?!admin).*": "separate route",
}

IMPOSSIBLE = ["/a b/", "/p%2fq/.*", "/p%2Fq/", "/%61dmin", "/d/\\.\\./e/", "/d/./e", "/f//g/", r"/x\?y=1", "/#x", "v1/.*", "/x;y=1", r"/a\\b", "/x\\./y", r"/caf%c3%a9/", "", "/%zz"]


@pytest.mark.parametrize("text", USEFUL)
def test_useful_patterns_are_accepted(text: str) -> None:
    assert fault_of_regex(text) is None


@pytest.mark.parametrize(("text", "reason"), SLOW.items())
def test_patterns_that_are_not_proven_linear_are_refused_with_the_place(text: str, reason: str) -> None:
    fault = fault_of_regex(text)
    assert fault is not None and reason in fault


@pytest.mark.parametrize("text", IMPOSSIBLE)
def test_a_pattern_that_no_path_can_match_is_refused(text: str) -> None:
    fault = fault_of_regex(text)
    if text != "/d/./e":  # the dot stands for any character
        assert fault is not None and "cannot match any path" in fault


@pytest.mark.parametrize(("text", "reason"), [
    ("(", "is not a regular expression"), ("[", "is not a regular expression"), ("/a{2,1}", "is not a regular expression"),
    ("a{99999999999999999999}", "positions"), ("/(?P<a>x)(?P<a>y)", "is not a regular expression"), ("/é", "percent-encoded"),
    ("/" + "a" * 500, "longer than 500"), ("/" + "(" * 200 + ")" * 200, "nested deeper"), ("\\", "is not a regular expression"),
    (r"/\xq", "is not a regular expression"),
])
def test_what_does_not_compile_or_is_too_large_is_refused(text: str, reason: str) -> None:
    assert reason in (fault_of_regex(text) or "")


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="/ab.*+?|()[]{}\\^$0129,:P<>=!-i", max_size=40))
def test_any_text_is_judged_without_an_exception(text: str) -> None:
    fault = fault_of_regex(text)
    if fault is None:
        re.compile(text.encode())


# ---- the second matcher: traverses Python's own tree like its matcher, and counts the bytes read


class Steps:
    """A backtracking machine without any shortcut: `count` is how often it looks at a byte until it knows the answer."""

    def __init__(self, text: str, path: bytes) -> None:
        self.program: list[tuple[str, Any]] = []
        self.sequence(list(python_parser.parse(text.encode())))
        self.count = 0
        self.matched = self.run(path)

    def run(self, path: bytes) -> bool:
        stack = [(0, 0)]
        while stack:
            at, position = stack.pop()
            while at < len(self.program):
                word, value = self.program[at]
                if word == "split":
                    stack.append((value[1], position))
                    at = value[0]
                elif word == "jump":
                    at = value
                else:
                    self.count += 1
                    if position == len(path) or not takes(word, value, path[position]):
                        break
                    at, position = at + 1, position + 1
            else:
                if position == len(path):
                    return True
        return False

    def sequence(self, items: list[Any]) -> None:
        for name, value in items:
            word = str(name)
            if word == "BRANCH":
                self.branches([list(branch) for branch in value[1]])
            elif word == "SUBPATTERN":
                self.sequence(list(value[3]))
            elif word in ("MAX_REPEAT", "MIN_REPEAT"):
                self.repeat(list(value[2]), value[0], value[1], word == "MAX_REPEAT")
            else:
                self.program.append((word, value))

    def branches(self, branches: list[list[Any]]) -> None:
        jumps = []
        for branch in branches[:-1]:
            split = len(self.program)
            self.program.append(("split", None))
            self.sequence(branch)
            jumps.append(len(self.program))
            self.program.append(("jump", None))
            self.program[split] = "split", (split + 1, len(self.program))
        self.sequence(branches[-1])
        for jump in jumps:
            self.program[jump] = "jump", len(self.program)

    def repeat(self, body: list[Any], least: int, most: int, greedy: bool) -> None:
        for _ in range(least):
            self.sequence(body)
        splits = []
        endless = most > 1 << 30
        for _ in range(1 if endless else most - least):
            splits.append(len(self.program))
            self.program.append(("split", None))
            self.sequence(body)
        if endless:
            self.program.append(("jump", splits[0]))
        for split in splits:
            ways = split + 1, len(self.program)
            self.program[split] = "split", ways if greedy else ways[::-1]


def takes(word: str, value: Any, byte: int) -> bool:
    if word == "ANY":
        return True
    if word != "IN":
        return (value == byte) is (word == "LITERAL")
    found = any(
        one == byte if str(kind) == "LITERAL" else str(kind) == "RANGE" and one[0] <= byte <= one[1] for kind, one in value
    )
    return found is not any(str(kind) == "NEGATE" for kind, _ in value)


ATOMS = st.sampled_from(["a", "b", "/", "[ab]", "[^/]", ".", "[a/]", "ab", "b/"])


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})"),
        st.builds(lambda one, many: f"(?:{one}){many}", inner, st.sampled_from(["*", "+", "?", "*?", "{1,3}", "{2}", "{0,2}"])),
    )


PATTERNS = st.recursive(ATOMS, grown, max_leaves=7).map(lambda text: "/" + text)
WORDS = st.tuples(*[st.text("ab/", max_size=4)] * 3)


@settings(max_examples=250, deadline=None)
@given(PATTERNS, st.lists(WORDS, min_size=1, max_size=4))
def test_the_steps_on_an_accepted_pattern_grow_with_the_path_and_not_faster(text: str, words: list[tuple[str, str, str]]) -> None:
    assume(fault_of_regex(text) is None)
    for begin, pump, end in words:
        once, twice = (Steps(text, f"/{begin}{pump * n}{end}!".encode()).count for n in (60, 120))
        assert twice <= 2 * once + 40 * len(text), (text, begin, pump, end)


@pytest.mark.parametrize("text", [text for text in USEFUL if "++" not in text and "?>" not in text and "(?i)" not in text and "\\" not in text and text[0] != "^"])
@pytest.mark.parametrize("pump", ["a", "/", "/a", "ab", "/v1", "0-", "/foo", "1/", "a-", "/0000/"])
def test_the_steps_on_useful_patterns_grow_with_the_path_and_not_faster(text: str, pump: str) -> None:
    for begin in ("/", "/v1/", "/a/", "/item/1/"):
        once, twice = (Steps(text, f"{begin}{pump * n}!".encode()).count for n in (100, 200))
        assert twice <= 2 * once + 40 * len(text)


@pytest.mark.parametrize("text", ["/[ab]*[b/]*!", "/.*a.*!", "/(a|ab|b)*c", "/(?:a{1,30}){1,3}b"])
def test_the_second_matcher_sees_what_is_not_linear(text: str) -> None:
    short, long = (Steps(text, b"/" + b"ab" * n).count for n in (8, 16)) if "|" in text else (
        Steps(text, b"/" + (b"a" if "{" in text else b"b" if "[" in text else b"a") * n).count for n in (12, 24))
    assert long > 3 * short and fault_of_regex(text) is not None


# ---- the automaton means what Python means


def accepts(automaton: _Automaton, path: bytes) -> bool:
    ends, last = automaton.whole.first, not path
    at: set[int] = set()
    for position, code in enumerate(path):
        reached = [ends] if position == 0 else [automaton.follow[one] for one in at]
        at = {one for ends in reached for one, guard in ends if guard & automaton.masks[one] & BITS[code]}
    return bool(automaton.whole.empty) if last else any(one in at for one, _ in automaton.whole.last)


@settings(max_examples=300, deadline=None)
@given(st.recursive(ATOMS, grown, max_leaves=6), st.lists(st.text("ab/", max_size=7), max_size=12))
def test_the_automaton_matches_what_python_matches(text: str, words: list[str]) -> None:
    try:
        automaton = _Automaton(parse(text))
    except Unsupported:
        return
    for word in words:
        assert accepts(automaton, word.encode()) is (re.fullmatch(text, word) is not None)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["a", "[ab]", "[^/]", "."]), st.sampled_from(["*+", "++", "?+", "{1,2}+", "{2}+", "{0,2}+", "{2,}+"]),
    st.sampled_from(["", "a", "b", "/", "[ab]*", "b?", "a+"]), st.lists(st.text("ab/", max_size=6), max_size=12),
)
def test_a_possessive_repetition_ends_where_python_ends_it(item: str, many: str, tail: str, words: list[str]) -> None:
    text = item + many + tail
    automaton = _Automaton(parse(text))
    for word in words:
        assert accepts(automaton, word.encode()) is (re.fullmatch(text, word) is not None), word


@pytest.mark.parametrize("text", ["/[^/]{1,1000}", "/(?:[a-z]{1,30}/){1,30}x", "/" + "(?:a|b|c|d|e)" * 35, "/" + "[a-z]?" * 80, "/.*" + "[ab]" * 60, "/.*a" + "[ab]" * 60])
def test_the_proof_itself_is_bounded(text: str) -> None:
    """The work is counted, and what goes beyond it is refused."""
    assert _size(parse(text)) <= MAX_POSITIONS
    fault_of_regex(text)


def test_every_byte_that_a_path_can_hold_is_in_the_alphabet() -> None:
    taken = re.compile(rb"[!-\x22$->@-~]+")  # the gate's, without the question mark that begins the query
    assert taken.fullmatch(ALPHABET) and len(ALPHABET) == 92
