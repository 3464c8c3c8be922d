"""The capabilities of each API's endpoints by model family: one table for all writers of requests.

The name of a model determines its family. An unknown name (a deployment, a tuned model, a private model) gets the most
widely supported capabilities, or those of the newest family at providers with models of their own.

Laws:
1. A value that an endpoint would reject is replaced by the nearest supported one. A value without a near one is passed
   on for the endpoint to judge, or is Refused with the name of the field if no endpoint could support it.
2. An effort is written as `none` only if it is `none`: a model that is asked to think little still thinks.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import field

from relayd.dataclass import dataclass
from relayd.lazy_regex import lazy_regex
from relayd.protocols.canon import Request
from relayd.protocols.dialect import Refused

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")  # from least to most
_USUAL_EFFORTS = ("none", "low", "medium", "high")

# The smallest thinking budget in tokens for each effort (Messages and Gemini clients give budgets).
_EFFORT_THRESHOLDS = ((16384, "high"), (4096, "medium"), (1, "low"))


def effort_for_budget(budget: int) -> str | None:
    """The effort that is nearest to a budget of tokens; None for a budget of 0."""
    return next((effort_name for minimum, effort_name in _EFFORT_THRESHOLDS if budget >= minimum), None)


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """The capabilities of one family of models.

    thinking: how thinking is requested: not at all (`no`), by an `effort`, by a `budget` of tokens, or on and off only
    (`switch`). `adaptive` models decide themselves, guided by an effort. "" leaves it to the upstream's options.
    efforts: the supported efforts. effort_aliases: replacements of unsupported efforts, where it is not the nearest.
    passes_unknown_effort: an unknown effort is sent unchanged; otherwise it is Refused.
    budgets: the tokens for each effort, between min_budget and max_budget. can_disable: a budget of 0 is supported too.
    json_schema: JSON Schema is supported for structured output, else only the older subset.
    call_ids: calls have ids. signatures: a call of the current turn is rejected without its thought signature.
    """

    thinking: str = "effort"
    efforts: tuple[str, ...] = _USUAL_EFFORTS
    effort_aliases: Mapping[str, str] = field(default_factory=dict)
    passes_unknown_effort: bool = True
    budgets: Mapping[str, int] = field(default_factory=dict)
    min_budget: int = 0
    max_budget: int = 1 << 53
    can_disable: bool = True
    json_schema: bool = True
    call_ids: bool = True
    signatures: bool = False

    def effort(self, effort_name: str) -> str:
        """The supported effort for an effort. Raises Refused for an unknown effort that no endpoint could support."""
        effort_name = self.effort_aliases.get(effort_name, effort_name)
        if effort_name in self.efforts:
            return effort_name
        if effort_name not in EFFORTS:
            if self.passes_unknown_effort:
                return effort_name
            known = ", ".join(EFFORTS)
            raise Refused(
                f"Unknown reasoning effort {effort_name[:40]!r}; known: {known}.", "reasoning_effort", "invalid_value"
            )
        rank = EFFORTS.index(effort_name)
        allowed = [one for one in self.efforts if one != "none"]
        lower = [one for one in allowed if EFFORTS.index(one) < rank]
        return lower[-1] if lower else allowed[0]

    def budget(self, effort: str) -> int:
        """The tokens for an effort. Raises Refused for an unknown effort."""
        return self.clamp_budget(self.budgets.get(self.effort(effort), self.budgets["medium"]))

    def clamp_budget(self, tokens: int) -> int:
        """The nearest supported number of tokens; -1 lets the model decide."""
        if tokens < 0 or (tokens == 0 and self.can_disable):
            return max(tokens, -1)
        return min(max(tokens, self.min_budget), self.max_budget)


@dataclass(frozen=True, slots=True)
class ToolNames:
    """The names of tools that an API accepts. Other names are encoded as accepted ones, deterministically."""

    allowed: re.Pattern[str]
    disallowed: re.Pattern[str]
    max_chars: int
    prefix: str = ""  # of encoded names

    def encode(self, name: str) -> str:
        """The name for the endpoint. It depends on the name only, so that a history is always written alike."""
        if self.allowed.fullmatch(name):
            return name
        mark = "_" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return self.prefix + self.disallowed.sub("_", name)[: self.max_chars - len(self.prefix) - len(mark)] + mark

    def reverse_map(self, names: Iterable[str]) -> dict[str, str]:
        """The client's names by encoded name, for names that were encoded."""
        return {other: name for name in names if (other := self.encode(name)) != name}


@dataclass(frozen=True, slots=True)
class SchemaRules:
    """The subset of JSON Schema that structured output supports.

    closed: objects must have `additionalProperties: false`. unsupported: keywords that move to the description.
    formats: the supported formats of strings. renamed: keywords that are supported under another name.
    """

    closed: bool = False
    unsupported: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, slots=True)
class Api:
    """The capabilities of one API. The first entry of `families` whose pattern matches the model's name applies.

    names: the accepted names of tools; None for any. max_stops: the number of stop strings; allows_blank_stops: whether
    a stop string may be white space only. schemas: the supported subset of JSON Schema for structured output; None for
    all of it.
    """

    default: ModelFamily
    families: tuple[tuple[re.Pattern[str], ModelFamily], ...] = ()
    names: ToolNames | None = None
    max_stops: int | None = None
    allows_blank_stops: bool = True
    schemas: SchemaRules | None = None

    def of(self, model: str) -> ModelFamily:
        """The family of the model with this name."""
        return _family_of(self, model)

    def tool_name(self, name: str) -> str:
        """The name of a tool for the endpoint."""
        return name if self.names is None else self.names.encode(name)

    def original_names(self, request: Request) -> dict[str, str]:
        """The client's names of a request's tools by encoded name."""
        return {} if self.names is None else self.names.reverse_map(tool.name for tool in request.tools)

    def split_stops(self, request: Request) -> tuple[list[str], tuple[str, ...]]:
        """The stop strings for the endpoint, and the rest, at which relayd ends the response."""
        allowed = [one for one in request.stop or () if self.allows_blank_stops or one.strip()]
        allowed = allowed if self.max_stops is None else allowed[: self.max_stops]
        return allowed, tuple(one for one in request.stop or () if one and one not in allowed)


@functools.lru_cache(maxsize=512)
def _family_of(api: Api, model: str) -> ModelFamily:
    for pattern, family in api.families:
        if pattern.match(model):
            return family
    return api.default


def _by_pattern(*rows: tuple[str, ModelFamily]) -> tuple[tuple[re.Pattern[str], ModelFamily], ...]:
    return tuple((lazy_regex(pattern, re.IGNORECASE), family) for pattern, family in rows)


# ---- OpenAI's two APIs, which many others imitate

_OPENAI_NAMES = ToolNames(lazy_regex(r"[A-Za-z0-9_-]{1,64}"), lazy_regex(r"[^A-Za-z0-9_-]"), 64)
_PROVIDER_PREFIX = r"(?:.*/)?"  # the provider's name before the model's
_OPENAI = _by_pattern(
    (_PROVIDER_PREFIX + r"gpt-5-pro", ModelFamily(efforts=("high",))),
    (_PROVIDER_PREFIX + r"gpt-5\.\d+-pro", ModelFamily(efforts=("medium", "high", "xhigh"))),
    (_PROVIDER_PREFIX + r"gpt-5(?:-(?:mini|nano))?(?:-20\d\d.*|-chat.*)?$",
     ModelFamily(efforts=("minimal", "low", "medium", "high"))),
    (_PROVIDER_PREFIX + r"gpt-5-codex", ModelFamily(efforts=("low", "medium", "high"))),
    (_PROVIDER_PREFIX + r"gpt-5\.1-codex-max", ModelFamily(efforts=("none", "low", "medium", "high", "xhigh"))),
    (_PROVIDER_PREFIX + r"gpt-5\.1(?![0-9])", ModelFamily(efforts=_USUAL_EFFORTS)),
    (_PROVIDER_PREFIX + r"gpt-(?:5\.|[6-9])", ModelFamily(efforts=("none", "low", "medium", "high", "xhigh"))),
    (_PROVIDER_PREFIX + r"(?:o[134](?:-|$)|gpt-oss)", ModelFamily(efforts=("low", "medium", "high"))),
)  # fmt: skip
CHAT = Api(ModelFamily(), _OPENAI, _OPENAI_NAMES, max_stops=4)
RESPONSES = Api(
    ModelFamily(efforts=("none", "minimal", "low", "medium", "high", "xhigh")), _OPENAI, _OPENAI_NAMES, max_stops=0
)
# Keywords of JSON Schema that OpenAI's `strict` rejects.
STRICT_UNSUPPORTED = frozenset((
    "allOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas", "patternProperties", "oneOf",
    "prefixItems", "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems",
    "contains", "minContains", "maxContains", "uniqueItems", "minLength", "maxLength",
))  # fmt: skip

# ---- Anthropic

_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32000}
_BY_BUDGET = ModelFamily("budget", EFFORTS, budgets=_BUDGETS, min_budget=1024)
_ADAPTIVE = ModelFamily("adaptive", ("low", "medium", "high", "xhigh", "max"), budgets=_BUDGETS, min_budget=1024)
_CLAUDE = r".*claude-"
MESSAGES = Api(
    ModelFamily("", ("low", "medium", "high", "xhigh", "max"), budgets=_BUDGETS, min_budget=1024),
    _by_pattern(
        (_CLAUDE + r"(?:[12]|instant|3-(?:opus|sonnet|haiku|5))", ModelFamily("no")),
        (_CLAUDE + r"(?:3-7|(?:opus|sonnet|haiku)-4(?:[-.][015])?(?![-.]?\d{1,2}(?!\d)))", _BY_BUDGET),
        (
            _CLAUDE + r"(?:opus|sonnet)-4[-.]6",
            ModelFamily("", ("low", "medium", "high", "max"), budgets=_BUDGETS, min_budget=1024),
        ),
        (_CLAUDE + r"(?:opus|sonnet|haiku)-(?:4[-.][7-9]|[5-9])", _ADAPTIVE),
    ),
    ToolNames(lazy_regex(r"[A-Za-z0-9_-]{1,128}"), lazy_regex(r"[^A-Za-z0-9_-]"), 128),
    allows_blank_stops=False,
    schemas=SchemaRules(
        closed=True,
        unsupported=frozenset((
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


def _thinks_by_budget(minimum: int, maximum: int, *, can_disable: bool = True) -> ModelFamily:
    return ModelFamily("budget", _GOOGLE, passes_unknown_effort=False, budgets=_GOOGLE_BUDGETS, min_budget=minimum,
                       max_budget=maximum, can_disable=can_disable, call_ids=False)  # fmt: skip


def _thinks_by_level(*levels: str, aliases: Mapping[str, str] | None = None) -> ModelFamily:
    return ModelFamily("effort", levels, aliases or {}, passes_unknown_effort=False, max_budget=32768, signatures=True)


GEMINI = Api(
    _thinks_by_level("minimal", "low", "medium", "high"),
    _by_pattern(
        (r"(?:models/)?(?:gemini-1|gemini-2\.0|gemini-(?:pro|ultra)(?:-vision)?$)",
         ModelFamily("no", json_schema=False, call_ids=False)),
        (r"(?:models/)?(?:gemma|learnlm)", ModelFamily("no", call_ids=False)),
        (r"(?:models/)?gemini-2\.5-pro", _thinks_by_budget(128, 32768, can_disable=False)),
        (r"(?:models/)?gemini-2\.5-flash-lite", _thinks_by_budget(512, 24576)),
        (r"(?:models/)?gemini-2", _thinks_by_budget(0, 24576)),
        (r"(?:models/)?gemini-3-pro", _thinks_by_level("low", "high", aliases={"medium": "high"})),
        (r"(?:models/)?(?:gemini-[0-9.]+-pro|gemini-pro-latest)", _thinks_by_level("low", "medium", "high")),
    ),
    ToolNames(lazy_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}"), lazy_regex(r"[^A-Za-z0-9_.\-]"), 64, "_"),
    max_stops=5,
)  # fmt: skip
# Keywords of schemas for models that support the older subset only.
GEMINI_KEYWORDS = (
    "title", "description", "nullable", "maxItems", "minItems", "required", "minProperties", "maxProperties",
    "minLength", "maxLength", "minimum", "maximum", "pattern", "example", "default", "propertyOrdering",
)  # fmt: skip
GEMINI_FORMATS = {"string": ("enum", "date-time"), "integer": ("int32", "int64"), "number": ("float", "double")}

# ---- Ollama

OLLAMA = Api(
    ModelFamily("switch", EFFORTS, passes_unknown_effort=False),
    _by_pattern((r".*gpt-oss", ModelFamily("effort", ("low", "medium", "high"), passes_unknown_effort=False))),
)
