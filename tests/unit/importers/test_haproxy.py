"""HAProxy: ACLs and rules in their order, backends, binds, and what is closed."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.importers import Conversion, converted
from relayd.importers._haproxy_backend import duration, tokens_of

BACKEND = "backend b\n    server s 10.0.0.1:80\n"


def haproxy(text: str) -> Conversion:
    return converted("haproxy", [("haproxy.cfg", text)], named=lambda pattern, beside: [], read=lambda path: "")


def front(lines: str, rest: str = BACKEND) -> Conversion:
    inner = "".join(f"    {line}\n" for line in lines.split("\n"))
    return haproxy(f"defaults\n    mode http\nfrontend f\n    bind :8080\n{inner}{rest}")


def routes(result: Conversion) -> list[dict[str, Any]]:
    return [dict(one) if isinstance(one, dict) else dict(one.value) for one in result.draft.document("/k").get("routes", [])]


def section(result: Conversion, name: str) -> dict[str, Any]:
    return {key: one.value for key, one in result.draft.document("/k").get(name, {}).items()}


@pytest.mark.parametrize(("condition", "matches"), [
    ("{ path /a /b }", [{"path": "/a"}, {"path": "/b"}]), ("{ path_beg /a }", [{"prefix": "/a"}]), ("{ path -m beg /a }", [{"prefix": "/a"}]),
    ("{ path_end .png }", [{"regex": r".*\.png"}]), ("{ path_reg ^/v[0-9]+$ }", [{"regex": "/v[0-9]+"}]), ("{ path_beg -i /A }", [{"regex": "(?i:/A.*)"}]),
    ("{ hdr(host) -i a.org b.org }", [{"host": ["a.org", "b.org"]}]), ("{ hdr_end(host) .a.org }", [{"host": ["*.a.org"]}]), ("{ method POST }", [{"method": ["POST"]}]),
    ("{ req.hdr(x-team) blue }", [{"header": {"x-team": "blue"}}]), ("{ path /a } { method GET }", [{"path": "/a", "method": ["GET"]}]),
    ("{ path /a } or { path /b }", [{"path": "/a"}, {"path": "/b"}]), ("{ hdr(host) a } { hdr(host) b }", []),
])
def test_conditions_that_relayd_can_express(condition: str, matches: list[Any]) -> None:
    result = front(f"use_backend b if {condition}")
    assert [one["match"] for one in routes(result)] == matches and all(one["upstream"] == "b" for one in routes(result))


@pytest.mark.parametrize(("condition", "superset"), [
    ("{ src 10.0.0.0/8 }", [{}]), ("!{ path /a }", [{}]), ("unknown { path /a }", [{"path": "/a"}]), ("{ path /a } { path_beg /b }", [{}]), ("{ hdr(x-api-key) k }", [{}]),
    ("{ path_reg (a+)+$ }", [{}]), ("{ url_param(a) b }", [{}]),
])
def test_conditions_that_relayd_cannot_express_close_a_superset(condition: str, superset: list[Any]) -> None:
    result = front(f"use_backend b if {condition}\ndefault_backend b")
    assert [one["match"] for one in routes(result) if "respond" in one] == superset and routes(result)[0]["respond"]["status"] == 501


def test_rules_come_before_backends_in_the_order_of_the_file() -> None:
    result = front("use_backend b if { path_beg /api }\nacl bad path /x\nacl bad path /y\nhttp-request deny if bad\nhttp-request redirect location /new code 301 if { path /old }\n"
                   "http-request return status 204 if { path /none }\ndefault_backend b")
    assert [(one["match"], one.get("respond", {}).get("status") or one.get("redirect", {}).get("status") or one["upstream"]) for one in routes(result)] == [
        ({"path": "/x"}, 403), ({"path": "/y"}, 403), ({"path": "/old"}, 301), ({"path": "/none"}, 204), ({"prefix": "/api"}, "b"), ({}, "b")]


@pytest.mark.parametrize("rule", [
    "http-request auth unless { path /x }", "http-request deny if { src 10.0.0.0/8 }", "http-request replace-path (.*) /x\\1", "http-request return status 200 lf-string %[src]",
    "http-request redirect location https://%[hdr(host)]/", "http-request allow if { path /x }", "tcp-request connection reject if { src 10.0.0.1 }", "redirect scheme https unless { path /x }",
])
def test_rules_that_cannot_be_converted_are_closed(rule: str) -> None:
    assert routes(front(f"{rule}\ndefault_backend b"))[0]["respond"]["status"] == 501


def test_fields_of_a_frontend_and_of_a_backend_are_joined() -> None:
    result = front("http-request set-header X-A 1\nhttp-response del-header X-B\nhttp-request set-header X-C %[src]\nhttp-request set-header X-D 1 if { path / }\ndefault_backend b",
                   "backend b\n    http-request add-header X-E 2\n    http-request set-header X-Api-Key secret-1\n    http-response set-header X-F 3\n    server s 10.0.0.1:80\n")
    found = routes(result)[0]
    assert found["request_headers"] == {"set": {"X-A": "1"}, "add": {"X-E": "2"}} and found["response_headers"] == {"remove": ["X-B"], "set": {"X-F": "3"}}
    assert section(result, "upstreams")["b"]["auth"] == {"header": {"name": "X-Api-Key", "value": {"file": "/k/x-api-key-12"}}}
    assert sum(one.fidelity == 2 for one in result.entries) == 2


def test_the_servers_of_a_backend() -> None:
    result = front("default_backend b", "backend b\n    balance hdr(x-user)\n    timeout connect 3s\n    timeout server 500\n    retries 1\n    option httpchk GET /h\n"
                   "    server a 10.0.0.1:80 weight 5 maxconn 9 check inter 5s rise 1 fall 2\n    server b unix@/run/x backup\n    server c h:443 ssl verify none ca-file /ca sni str(n)\n")
    assert section(result, "upstreams")["b"] == {
        "endpoints": [{"url": "http://10.0.0.1:80", "weight": 5, "limits": {"requests": 9}}, {"url": "unix:/run/x", "priority": 1}, "https://h:443"], "host": "client", "breaker": False,
        "limits": {"queue": 1000}, "health": {"interval": "5s", "healthy": 1, "unhealthy": 2, "path": "/h", "status": ["2xx", "3xx"]},
        "tls": {"verify": False, "ca": "/ca", "server_name": "n"}, "timeouts": {"connect": "3s", "first_byte": "500ms", "idle": "500ms"}, "balance": "consistent_hash",
        "hash": {"by": ["header:x-user"]}, "retries": {"attempts": 2, "on": ["connect"]}}


@pytest.mark.parametrize("backend", ["", "backend b\n    http-request deny\n    server s 1.2.3.4:80\n", "backend b\n    server s %[x]\n"])
def test_a_backend_that_cannot_be_converted_is_closed(backend: str) -> None:
    assert routes(front("default_backend b", backend))[0]["respond"]["status"] == 501


@pytest.mark.parametrize(("bind", "listener"), [
    ("*:80", {"address": "0.0.0.0:80"}), (":::80", {"address": "[::]:80"}), ("/run/x.sock", {"address": "unix:/run/x.sock"}), ("ipv4@10.0.0.1:80", {"address": "10.0.0.1:80"}),
    (":443 ssl crt /c.pem", {"address": "0.0.0.0:443", "tls": {"certificates": [{"cert": "/c.pem", "key": "/c.pem"}]}}), (":443 ssl", None), (":443 ssl crt /c verify required", None),
    (":80 accept-proxy", {"address": "0.0.0.0:80", "proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}), ("fd@3", None),
])
def test_addresses_that_are_listened_on(bind: str, listener: dict[str, Any] | None) -> None:
    result = haproxy(f"defaults\n    mode http\nlisten f\n    bind {bind}\n    server s 10.0.0.1:80\n")
    assert section(result, "listeners") == ({"local": {"address": "127.0.0.1:8282"}} if listener is None else {"f": listener}) and routes(result)[0]["upstream"] == "f"


def test_a_redirect_to_https_belongs_to_the_listener() -> None:
    result = haproxy("defaults\n    mode http\nfrontend f\n    bind :443 ssl crt /c.pem\n    bind :80\n    http-request redirect scheme https unless { ssl_fc }\n    default_backend b\n" + BACKEND)
    assert section(result, "listeners")["f-2"] == {"address": "0.0.0.0:80", "https_redirect": True} and len(routes(result)) == 1


def test_a_second_frontend_is_not_published_on_the_first() -> None:
    result = front("default_backend b", BACKEND + "frontend g\n    bind 127.0.0.1:9\n    default_backend b\n")
    assert list(section(result, "listeners")) == ["f"] and result.entries[-1].fidelity == 2


@pytest.mark.parametrize(("text", "words"), [
    ("  a 'b c' \"d\\\"e\" f\\ g # h", ["a", "b c", 'd"e', "f g"]), ("# x", []), ("a#b", ["a"]), ("a \"b\"c'd'", ["a", "bcd"]),
])
def test_the_words_of_a_line(text: str, words: list[str]) -> None:
    assert tokens_of(text, "x:1") == words


@pytest.mark.parametrize("line", ["acl x", "server", "http-request set-header X-A", "bind", "http-request"])
def test_a_line_that_is_not_complete_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=r"haproxy\.cfg:5: .* is not complete"):
        front(line)


def test_an_open_quote_is_named_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"haproxy\.cfg:2: a quote is not closed"):
        haproxy("defaults\n    log 'x\n")


@pytest.mark.parametrize(("text", "value"), [("5s", "5s"), ("500", "500ms"), ("1m", "1m"), ("5us", None), ("0", None), ("x", None)])
def test_durations(text: str, value: str | None) -> None:
    assert duration(text) == value


def test_every_line_of_a_backend_that_was_not_converted_says_so() -> None:
    result = front("acl a src 10.0.0.1\nuse_backend b if a", "backend b\n    balance leastconn\n    option httpchk\n    server s 10.0.0.1:80\n")
    told = {one.text: (str(one.fidelity), one.reasons) for one in result.entries if one.line > 7}
    assert set(told.values()) == {("by hand", ("belongs to a backend that was not converted",))}, told


def test_a_folder_of_certificates_becomes_its_files() -> None:
    text = "defaults\n    mode http\nfrontend f\n    bind :443 ssl crt /certs/\n    bind :80\n    default_backend b\n" + BACKEND
    there = ["/certs/a.pem", "/certs/a.pem.key", "/certs/b.pem"]
    result = converted("haproxy", [("haproxy.cfg", text)], named=lambda pattern, beside: there if pattern == "/certs/*" else [], read=lambda path: "")
    assert section(result, "listeners")["f"]["tls"]["certificates"] == [{"cert": one, "key": one} for one in ("/certs/a.pem", "/certs/b.pem")]
    (entry,) = [one for one in haproxy(text).entries if one.line == 4]
    assert str(entry.fidelity) == "by hand" and list(section(haproxy(text), "listeners").values()) == [{"address": "0.0.0.0:80"}]
