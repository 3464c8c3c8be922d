"""Caddy: the order of directives, matchers, addresses of sites, and what is closed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from relayd.importers import Conversion, converted


def caddy(text: str, **included: str) -> Conversion:
    return converted("caddyfile", [("Caddyfile", text)], named=lambda pattern, beside: [pattern] if pattern in included else [], read=lambda path: included[path])


def site(text: str) -> Conversion:
    return caddy(f":8080 {{\n{text}\n}}\n")


def routes(result: Conversion) -> list[dict[str, Any]]:
    return [dict(one) if isinstance(one, dict) else dict(one.value) for one in result.draft.document("/k").get("routes", [])]


def section(result: Conversion, name: str) -> dict[str, Any]:
    return {key: one.value for key, one in result.draft.document("/k").get(name, {}).items()}


def what(result: Conversion) -> list[tuple[Any, Any]]:
    return [(one["match"], one.get("upstream") or one.get("redirect", {}).get("status") or one["respond"]["status"]) for one in routes(result)]


def test_directives_are_sorted_as_caddy_sorts_them() -> None:
    result = site("reverse_proxy a:1\nrespond /x 201\nhandle /h/* {\n respond 202\n}\nredir /r https://x.org\nrespond /xlonger* 203\nreverse_proxy /p/* b:1")
    assert what(result) == [({"path": "/r"}, 302), ({"prefix": "/h/"}, 202), ({"regex": "(?i:/xlonger.*)"}, 203), ({"regex": "(?i:/x)"}, 201),
                            ({"prefix": "/p/"}, "b"), ({}, "a")]


def test_route_keeps_the_order_of_the_file() -> None:
    result = site("route {\n reverse_proxy /a a:1\n respond 200\n redir https://x.org\n}")
    assert [found for _, found in what(result)] == ["a", 200, 302]


@pytest.mark.parametrize(("text", "values"), [
    ("handle_path /api/* {\n reverse_proxy a:1\n}", {"match": {"prefix": "/api/"}, "strip_prefix": "/api"}),
    ("handle /api/* {\n uri strip_prefix /api\n reverse_proxy a:1\n}", {"match": {"prefix": "/api/"}, "strip_prefix": "/api"}),
    ("rewrite /v1{uri}\nreverse_proxy a:1", {"match": {"prefix": "/"}, "rewrite": "/v1/"}),
    ("reverse_proxy /exact a:1", {"match": {"path": "/exact"}}),
    ("reverse_proxy /*.json a:1", {"match": {"regex": r"(?i:/.*\.json)"}}),
])
def test_the_path_that_goes_upstream(text: str, values: dict[str, Any]) -> None:
    found = routes(site(text))[0]
    assert {key: found[key] for key in ("match", "rewrite", "strip_prefix") if key in found} == values


def test_conditions_of_named_matchers() -> None:
    result = site("@m {\n method GET post\n header X-A b\n host a.org\n}\nreverse_proxy @m a:1\n@n path /a /b/*\nreverse_proxy @n b:1")
    assert what(result) == [({"method": ["GET", "POST"], "header": {"X-A": "b"}, "host": ["a.org"]}, "a"), ({"path": "/a"}, "b"), ({"prefix": "/b/"}, "b")]


@pytest.mark.parametrize("text", [
    "@m remote_ip 10.0.0.0/8\nrespond @m 403\nreverse_proxy a:1",
    "@m not path /x\nreverse_proxy @m a:1",
    "basicauth {\n alice hash\n}\nreverse_proxy a:1",
    "forward_auth a:1 {\n uri /auth\n}\nreverse_proxy a:1",
    "try_files {path} /index.html\nreverse_proxy a:1",
    "rewrite /a /b\nreverse_proxy a:1", "file_server", "reverse_proxy srv+http://x", "reverse_proxy a:1-5", "reverse_proxy", "abort",
    "handle_path /a*/b {\n reverse_proxy a:1\n}", "respond \"{remote_host}\"", "redir https://{labels.1}/", "reverse_proxy @gone a:1",
])
def test_what_cannot_be_converted_is_closed(text: str) -> None:
    result = site(text)
    assert routes(result)[0]["respond"]["status"] == 501 and any(one.fidelity == 2 for one in result.entries)


def test_a_refusal_ignores_case_as_caddy_does() -> None:
    assert routes(site("respond /admin* 403\nreverse_proxy a:1"))[0]["match"] == {"regex": "(?i:/admin.*)"}


def test_fields_are_edited_and_keys_moved() -> None:
    result = site('header -Server\nheader +X-A 1\nreverse_proxy a:1 {\n header_up X-B 2\n header_down -X-C\n header_up Authorization "Bearer secret-1"\n header_up X-D {remote_host}\n}')
    found = routes(result)[0]
    assert found["response_headers"] == {"remove": ["Server", "X-C"], "add": {"X-A": "1"}} and found["request_headers"] == {"set": {"X-B": "2"}}
    assert section(result, "upstreams")["a"]["auth"] == {"bearer": {"file": "/k/authorization-7"}} and result.keys == {"authorization-7": "secret-1"}


def test_the_upstream_of_a_reverse_proxy() -> None:
    result = site("reverse_proxy https://a b unix//run/x {\n lb_policy header X-K\n lb_retries 2\n transport http {\n tls_server_name n\n dial_timeout 1s\n max_conns_per_host 5\n versions 1.1 2\n }\n}")
    (found,) = section(result, "upstreams").values()
    assert found == {"host": "client", "timeouts": {"connect": "1s", "first_byte": "off", "idle": "off"}, "breaker": False,
                     "endpoints": ["https://a", "http://b", "unix:/run/x"], "balance": "consistent_hash", "hash": {"by": ["header:X-K"]}, "retries": {"attempts": 3},
                     "tls": {"server_name": "n"}, "limits": {"requests": 5, "queue": 1000}, "http": "2"}


@pytest.mark.parametrize(("address", "listeners"), [
    ("example.org", {"public": {"address": "0.0.0.0:443", "tls": {"acme": {"domains": ["example.org"]}}}, "plain": {"address": "0.0.0.0:80", "https_redirect": True}}),
    ("http://example.org", {"public": {"address": "0.0.0.0:80"}}), (":9000", {"public": {"address": "0.0.0.0:9000"}}),
    ("a.example.org, b.example.org:443", {"public": {"address": "0.0.0.0:443", "tls": {"acme": {"domains": ["a.example.org", "b.example.org"]}}},
                                          "plain": {"address": "0.0.0.0:80", "https_redirect": True}}),
    *((address, {"local": {"address": "127.0.0.1:8282"}}) for address in ("localhost", "https://10.0.0.1", "example.org/path")),
])
def test_addresses_of_a_site(address: str, listeners: dict[str, Any]) -> None:
    assert section(caddy(f"{address} {{\n respond 200\n}}\n"), "listeners") == listeners


def test_certificates_of_a_file_and_an_address_for_acme() -> None:
    assert section(caddy("a.org {\n tls /c /k\n respond 200\n}"), "listeners")["public"]["tls"] == {"certificates": [{"cert": "/c", "key": "/k"}]}
    assert section(caddy("a.org {\n tls me@a.org\n respond 200\n}"), "listeners")["public"]["tls"] == {"acme": {"domains": ["a.org"], "email": "me@a.org"}}


def test_sites_are_separated_by_host_and_one_takes_the_rest() -> None:
    result = caddy(":80 {\n respond 200\n}\nhttp://a.org {\n respond /x 201\n}\n:81 {\n respond 202\n}\n")
    assert what(result) == [({"host": ["a.org"], "regex": "(?i:/x)"}, 201), ({"host": ["a.org"]}, 404), ({}, 200)]
    assert {str(one.fidelity) for one in result.entries[-2:]} == {"by hand"}


def test_a_file_without_braces_is_one_site() -> None:
    assert what(caddy(":8080\nrespond 200\n")) == [({}, 200)]


def test_imports_of_snippets_and_files() -> None:
    result = caddy("(s) {\n respond /{args[0]} {args.1}\n}\n:80 {\n import s a 201\n import more\n import gone\n}\n", more="reverse_proxy a:1\nlog\n")
    assert what(result) == [({"regex": "(?i:/a)"}, 201), ({}, "a")]
    assert next(one for one in result.entries if one.line == 7).fidelity == 2


@pytest.mark.parametrize(("text", "message"), [
    (":80 {\n", "Caddyfile: a block is not closed"), ("}\n", "Caddyfile:1: unexpected }"), ('respond "x\n', "Caddyfile:1: a quote is not closed"),
    (":80 {\n respond <<A\n x\n}\n", "Caddyfile:2: a text is not closed"), ("(s) {\n import s\n}\n:80 {\n import s\n}", "imports are nested too deeply"),
])
def test_a_broken_file_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("{", r"\{").replace("}", r"\}")):
        caddy(text)


@pytest.mark.parametrize(("outer", "inner", "closed", "open_"), [
    ("handle /h/*", "respond /h/a 403", "/h/a", "/h/b"),
    ("handle /h/*", "respond /H/A* 403", "/h/ab", "/h/b"),
    ("handle /h/*", "forward_auth /h/a* auth:1", "/h/a", "/h/b"),
])
def test_what_closes_a_path_inside_of_a_block_closes_it(outer: str, inner: str, closed: str, open_: str) -> None:
    result = caddy(f":80 {{\n{outer} {{\n{inner}\nreverse_proxy h:1\n}}\n}}")
    found = [next(one for one in routes(result) if is_match(one["match"], path)) for path in (closed, open_)]
    assert found[0]["respond"]["status"] in (403, 501) and found[1]["upstream"] == "h"


def test_a_pattern_inside_of_a_block_that_relayd_cannot_express_closes_the_block_alone() -> None:
    for inner in ("@r path_regexp ^/(h|x)/a\nreverse_proxy @r h:1", "respond /*/a 403\nreverse_proxy h:1"):
        result = site(f"handle /h/* {{\n{inner}\n}}\nreverse_proxy i:1")
        assert what(result) == [({"prefix": "/h/"}, 501), *what(result)[1:-1], ({}, "i")]


def is_match(match: dict[str, Any], path: str) -> bool:
    if "regex" in match:
        return re.fullmatch(match["regex"], path) is not None
    return path == match["path"] if "path" in match else path.startswith(match.get("prefix", ""))
