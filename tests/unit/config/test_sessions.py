"""`sessions:` and the keys of routes and upstreams that refer to it."""

from __future__ import annotations

import pytest

from relayd.config.load import load_text
from relayd.errors import ConfigError

BASE = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams: {web: {endpoints: ["http://origin.example:9001"], affinity: session}}
"""


def test_the_example_of_the_manual_is_accepted() -> None:
    text = BASE + (
        "sessions: {cookie: relayd_session, header: X-Session-ID, ttl: 2h, size: 64KiB}\n"
        "routes:\n"
        "  - {name: session-data, match: {prefix: /api/session}, upstream: sessions}\n"
        "  - {name: web, upstream: web, session: true}\n"
    )
    config = load_text(text, "relayd.yaml").config
    assert float(config.sessions.ttl) == 7200 and int(config.sessions.size) == 65536
    assert config.sessions == load_text(BASE, "relayd.yaml").config.sessions  # the defaults


@pytest.mark.parametrize(("section", "fault"), [
    ("cookie: 'a b'", "is not the name of a cookie"), ("cookie: 'a=b'", "is not the name of a cookie"),
    ("cookie: relayd_sign_in", "is the cookie of the dashboard"), ("header: 'X Y'", "header"), ("header: Cookie", "another meaning"), ("header: Authorization", "another meaning"),
    ("header: Content-Length", "another meaning"), ("cookie: off, header: off", "needs a cookie or a header"),
    ("ttl: 0s", "ttl"), ("size: 1MiB", "size"), ("cookie_path: 'x'", "cookie_path"),
    ("cookie_path: '/a;b'", "cookie_path"),
])
def test_what_cannot_work_is_refused(section: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_text(BASE + f"sessions: {{{section}}}\n", "relayd.yaml")


@pytest.mark.parametrize(("text", "fault"), [
    ("routes: [{name: a, redirect: /b, session: true}]", "has a meaning only with an upstream"),
    ("upstreams: {sessions: {endpoints: ['http://a:1']}}", "this name is built in"),
])
def test_keys_elsewhere(text: str, fault: str) -> None:
    base = BASE if "upstreams" not in text else BASE.partition("upstreams")[0]
    with pytest.raises(ConfigError, match=fault):
        load_text(base + text, "relayd.yaml")
