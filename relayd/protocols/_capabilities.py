"""What the endpoints of each API take, by the generation of the model: one table, which all writers of requests ask.

The name of a model tells its generation. A name that tells nothing (a deployment, a tuned model, a model of its own)
is held for what is most widely taken, at providers that have models of their own for the newest generation.

Laws:
1. A value that an endpoint would refuse becomes the nearest that it takes; what has no near one is for the endpoint to
   judge, or, where nobody could take it, refused with the name of the field.
2. No effort is written as `none` unless it is `none`: a model that is asked to think little still thinks.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from relayd.protocols.canon import Request
from relayd.protocols.dialect import Refused

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # from least to most
_USUAL_EFFORTS = ("none", "low", "medium", "high")

# From how many thinking tokens on which effort fits (clients of Messages and Gemini count tokens).
_EFFORT_FROM = ((16384, "high"), (4096, "medium"), (1, "low"))


def effort_of(budget: int) -> str | None:
    """The effort that is nearest to a budget of tokens; None for no budget."""
    return next((word for least, word in _EFFORT_FROM if budget >= least), None)


@dataclass(frozen=True, slots=True)
class Generation:
    """What the models of one generation take.

    thinking: how they are asked to think: `no`, by an `effort`, by a `budget` of tokens, or only whether (`switch`);
    `adaptive` decides by itself, with an effort; "" leaves it to the upstream's options.
    efforts: the words that are taken; `instead` names the word for one that is not, where that is not the nearest.
    any_word: a word that is no effort goes to the endpoint as it is, else it is refused.
    budgets: the tokens for each effort; least_budget and most_budget bound them; where `can_rest`, 0 is taken too.
    json_schema: takes JSON Schema for structured output, else the older subset.
    call_ids: knows ids of calls. signatures: refuses a call of the current turn without its thought signature.
    """

    thinking: str = "effort"
    efforts: tuple[str, ...] = _USUAL_EFFORTS
    instead: Mapping[str, str] = field(default_factory=dict)
    any_word: bool = True
    budgets: Mapping[str, int] = field(default_factory=dict)
    least_budget: int = 0
    most_budget: int = 1 << 53
    can_rest: bool = True
    json_schema: bool = True
    call_ids: bool = True
    signatures: bool = False

    def effort(self, word: str) -> str:
        """The word to write for an effort. Raises Refused for what is no effort, where no endpoint could know it."""
        word = self.instead.get(word, word)
        if word in self.efforts:
            return word
        if word not in EFFORTS:
            if self.any_word:
                return word
            known = ", ".join(EFFORTS)
            raise Refused(
                f"Unknown reasoning effort {word[:40]!r}; known: {known}.", "reasoning_effort", "invalid_value"
            )
        rank = EFFORTS.index(word)
        taken = [one for one in self.efforts if one != "none"]
        less = [one for one in taken if EFFORTS.index(one) < rank]
        return less[-1] if less else taken[0]

    def budget(self, effort: str) -> int:
        """The tokens for an effort. Raises Refused for what is no effort."""
        return self.fitting_budget(self.budgets.get(self.effort(effort), self.budgets["medium"]))

    def fitting_budget(self, tokens: int) -> int:
        """The nearest number of tokens that the models take; -1 leaves it to them."""
        if tokens < 0 or (tokens == 0 and self.can_rest):
            return max(tokens, -1)
        return min(max(tokens, self.least_budget), self.most_budget)


@dataclass(frozen=True, slots=True)
class ToolNames:
    """The names of tools that an API takes. Another name is written as one of these, always the same for one name."""

    taken: re.Pattern[str]
    foreign: re.Pattern[str]
    longest: int
    first: str = ""  # what a name that is written otherwise begins with

    def written(self, name: str) -> str:
        """The name for the endpoint: it depends on nothing but the name, so that a history is written as it was."""
        if self.taken.fullmatch(name):
            return name
        mark = "_" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return self.first + self.foreign.sub("_", name)[: self.longest - len(self.first) - len(mark)] + mark

    def back(self, names: Iterable[str]) -> dict[str, str]:
        """From what the endpoint was told to the name that the client knows, for those that differ."""
        return {other: name for name in names if (other := self.written(name)) != name}


@dataclass(frozen=True, slots=True)
class SchemaRules:
    """What structured output takes of JSON Schema.

    closed: objects must say `additionalProperties: false`. told: words that are not taken; they move to the
    description. formats: the formats of strings that are taken. renamed: words that are taken under another name.
    """

    closed: bool = False
    told: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Api:
    """What one API takes. `generations` are told by the name of the model, of which the first that matches counts.

    names: the names of tools; None for any. most_stops: how many stop strings; blank_stops: whether also of blanks
    only. schemas: what it takes of the schema of structured output; None for all of it.
    """

    otherwise: Generation
    generations: tuple[tuple[re.Pattern[str], Generation], ...] = ()
    names: ToolNames | None = None
    most_stops: int | None = None
    blank_stops: bool = True
    schemas: SchemaRules | None = None

    def of(self, model: str) -> Generation:
        """What the models of this name take."""
        return _of(self, model)

    def tool_name(self, name: str) -> str:
        """The name of a tool for the endpoint."""
        return name if self.names is None else self.names.written(name)

    def names_back(self, request: Request) -> dict[str, str]:
        """The way back of the names of a request's tools."""
        return {} if self.names is None else self.names.back(tool.name for tool in request.tools)

    def stops(self, request: Request) -> tuple[list[str], tuple[str, ...]]:
        """The stop strings for the endpoint, and those that are left for relayd to end the answer at."""
        taken = [one for one in request.stop or () if self.blank_stops or one.strip()]
        taken = taken if self.most_stops is None else taken[: self.most_stops]
        return taken, tuple(one for one in request.stop or () if one and one not in taken)


@functools.lru_cache(maxsize=512)
def _of(api: Api, model: str) -> Generation:
    for pattern, generation in api.generations:
        if pattern.match(model):
            return generation
    return api.otherwise


def _rows(*rows: tuple[str, Generation]) -> tuple[tuple[re.Pattern[str], Generation], ...]:
    return tuple((re.compile(pattern, re.IGNORECASE), generation) for pattern, generation in rows)


# ---- OpenAI's two APIs, which many others imitate

_OPENAI_NAMES = ToolNames(re.compile(r"[A-Za-z0-9_-]{1,64}"), re.compile(r"[^A-Za-z0-9_-]"), 64)
_AT = r"(?:.*/)?"  # a provider's name before that of the model
_OPENAI = _rows(
    (_AT + r"gpt-5-pro", Generation(efforts=("high",))),
    (_AT + r"gpt-5\.\d+-pro", Generation(efforts=("medium", "high", "xhigh"))),
    (_AT + r"gpt-5(?:-(?:mini|nano))?(?:-20\d\d.*|-chat.*)?$",
     Generation(efforts=("minimal", "low", "medium", "high"))),
    (_AT + r"gpt-5-codex", Generation(efforts=("low", "medium", "high"))),
    (_AT + r"gpt-5\.1-codex-max", Generation(efforts=("none", "low", "medium", "high", "xhigh"))),
    (_AT + r"gpt-5\.1(?![0-9])", Generation(efforts=_USUAL_EFFORTS)),
    (_AT + r"gpt-(?:5\.|[6-9])", Generation(efforts=("none", "low", "medium", "high", "xhigh"))),
    (_AT + r"(?:o[134](?:-|$)|gpt-oss)", Generation(efforts=("low", "medium", "high"))),
)  # fmt: skip
CHAT = Api(Generation(), _OPENAI, _OPENAI_NAMES, most_stops=4)
RESPONSES = Api(
    Generation(efforts=("none", "minimal", "low", "medium", "high", "xhigh")), _OPENAI, _OPENAI_NAMES, most_stops=0
)
# Words of JSON Schema that OpenAI's `strict` refuses.
NEVER_STRICT = frozenset((
    "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "oneOf",
    "prefixItems", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems",
    "contains", "minContains", "maxContains", "uniqueItems", "minLength", "maxLength",
))  # fmt: skip

# ---- Anthropic

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32000}
_BY_BUDGET = Generation("budget", EFFORTS, budgets=_BUDGETS, least_budget=1024)
_ADAPTIVE = Generation("adaptive", ("low", "medium", "high", "xhigh", "max"), budgets=_BUDGETS, least_budget=1024)
_CLAUDE = r".*claude-"
MESSAGES = Api(
    Generation("", ("low", "medium", "high", "xhigh", "max"), budgets=_BUDGETS, least_budget=1024),
    _rows(
        (_CLAUDE + r"(?:[12]|instant|3-(?:opus|sonnet|haiku|5))", Generation("no")),
        (_CLAUDE + r"(?:3-7|(?:opus|sonnet|haiku)-4(?:[-.][015])?(?![-.]?\d{1,2}(?!\d)))", _BY_BUDGET),
        (
            _CLAUDE + r"(?:opus|sonnet)-4[-.]6",
            Generation("", ("low", "medium", "high", "max"), budgets=_BUDGETS, least_budget=1024),
        ),
        (_CLAUDE + r"(?:opus|sonnet|haiku)-(?:4[-.][7-9]|[5-9])", _ADAPTIVE),
    ),
    ToolNames(re.compile(r"[A-Za-z0-9_-]{1,128}"), re.compile(r"[^A-Za-z0-9_-]"), 128),
    blank_stops=False,
    schemas=SchemaRules(
        closed=True,
        told=frozenset((
            "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength",
            "maxItems", "uniqueItems", "minProperties", "maxProperties",
        )),
        formats=frozenset((
            "date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid",
        )),
        renamed={"oneOf": "anyOf"},
    ),
)  # fmt: skip

# ---- Google. Efforts are budgets as in Google's own compatibility layer.

_GOOGLE = ("none", "minimal", "low", "medium", "high")
_GOOGLE_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576}


def _thinks_by_budget(least: int, most: int, *, can_rest: bool = True) -> Generation:
    return Generation("budget", _GOOGLE, any_word=False, budgets=_GOOGLE_BUDGETS, least_budget=least, most_budget=most,
                      can_rest=can_rest, call_ids=False)  # fmt: skip


def _thinks_by_level(*levels: str, instead: Mapping[str, str] | None = None) -> Generation:
    return Generation("effort", levels, instead or {}, any_word=False, most_budget=32768, signatures=True)


GEMINI = Api(
    _thinks_by_level("minimal", "low", "medium", "high"),
    _rows(
        (r"(?:models/)?(?:gemini-1|gemini-2\.0|gemini-(?:pro|ultra)(?:-vision)?$)",
         Generation("no", json_schema=False, call_ids=False)),
        (r"(?:models/)?(?:gemma|learnlm)", Generation("no", call_ids=False)),
        (r"(?:models/)?gemini-2\.5-pro", _thinks_by_budget(128, 32768, can_rest=False)),
        (r"(?:models/)?gemini-2\.5-flash-lite", _thinks_by_budget(512, 24576)),
        (r"(?:models/)?gemini-2", _thinks_by_budget(0, 24576)),
        (r"(?:models/)?gemini-3-pro", _thinks_by_level("low", "high", instead={"medium": "high"})),
        (r"(?:models/)?(?:gemini-[0-9.]+-pro|gemini-pro-latest)", _thinks_by_level("low", "medium", "high")),
    ),
    ToolNames(re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"), re.compile(r"[^A-Za-z0-9_.\-]"), 64, "_"),
    most_stops=5,
)  # fmt: skip
# Of a schema for models that know the older subset only.
GEMINI_WORDS = (
    "title", "description", "nullable", "maxItems", "minItems", "required", "minProperties", "maxProperties",
    "minLength", "maxLength", "minimum", "maximum", "pattern", "example", "default", "propertyOrdering",
)  # fmt: skip
GEMINI_FORMATS = {"string": ("enum", "date-time"), "integer": ("int32", "int64"), "number": ("float", "double")}

# ---- Ollama

OLLAMA = Api(
    Generation("switch", EFFORTS, any_word=False),
    _rows((r".*gpt-oss", Generation("effort", ("low", "medium", "high"), any_word=False))),
)
