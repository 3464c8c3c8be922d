"""`dialect:` of an upstream."""

from __future__ import annotations

import dataclasses

from relayd.config.dialect import DialectOptions
from relayd.protocols.dialect import Options
from tests.unit.config.section_case import accepted, faults

UPSTREAM = "{u: {endpoints: 'https://a/v1', protocol: openai_chat, dialect: {WORDS}}}"


def test_every_option_of_the_dialects_has_its_key_and_its_default() -> None:
    assert dataclasses.asdict(DialectOptions()) == dataclasses.asdict(Options())


def test_words_are_checked() -> None:
    config, _ = accepted(upstreams=UPSTREAM.replace("WORDS", "max_tokens_field: max_completion_tokens, ask_usage: false"))
    options = config.upstreams["u"].dialect
    assert options.max_tokens_field == "max_completion_tokens" and not options.ask_usage
    for words, key in (("thinking: hard", "thinking"), ("default_max_tokens: 0", "default_max_tokens"), ("x: 1", "x")):
        assert list(faults(upstreams=UPSTREAM.replace("WORDS", words))) == [f"upstreams.u.dialect.{key}"]
