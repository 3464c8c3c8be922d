"""nginx: which location becomes which route, in which order, and what is closed."""

from __future__ import annotations

from typing import Any

import pytest

from relayd.importers import Conversion, converted


def nginx(text: str, **included: str) -> Conversion:
    files = {name.replace("_", "/"): inner for name, inner in included.items()}
    return converted("nginx", [("n.conf", text)], named=lambda pattern, beside: [one for one in files if one == pattern],
                     read=lambda path: files[path])


def server(inner: str) -> Conversion:
    return nginx(f"server {{ listen 8080; {inner} }}")


def routes(result: Conversion) -> list[dict[str, Any]]:
    return [dict(one) if isinstance(one, dict) else dict(one.value) for one in result.draft.document("/k")["routes"]]


def upstream(result: Conversion, name: str = "") -> dict[str, Any]:
    found = result.draft.document("/k")["upstreams"]
    return dict(found[name or next(iter(found))].value)


def fidelities(result: Conversion) -> dict[str, str]:
    return {one.text: str(one.fidelity) for one in result.entries}


def matches(result: Conversion) -> list[Any]:
    return [next(iter(one["match"].values()), "") for one in routes(result)]


def test_the_order_is_the_one_in_which_nginx_chooses() -> None:
    result = server("location / { return 200; } location /a/b { return 201; } location ~ ^/r { return 202; } "
                    "location /a { return 203; } location = /a { return 204; } location ^~ /s { return 205; }")
    assert matches(result) == ["/a", "/s", "/r.*", "/a/b", "/a", "/"]
    assert [one["respond"]["status"] for one in routes(result)] == [204, 205, 202, 201, 203, 200]


def test_a_location_inside_of_one_that_ends_the_search_comes_before_it() -> None:
    result = server("location ^~ /s { return 200; }\nlocation /s/deep { return 201; }\nlocation ~ x { return 202; }")
    assert matches(result) == ["/s/deep", "/s", ".*?x.*"] and result.entries[1].fidelity == 1


def test_a_location_with_a_slash_redirects_the_path_without_it() -> None:
    result = server("location /a/ { proxy_pass http://h; }")
    assert routes(result)[0]["redirect"] == {"location": "/a/{query}", "status": 301}
    assert len(routes(server("location /a/ { return 200; }"))) == 1
    for kind in ("=", "^~", ""):  # nginx finds this location instead
        assert len(routes(server(f"location {kind} /a {{ return 200; }} location /a/ {{ proxy_pass http://h; }}"))) == 2
    assert matches(server("location /a/ { proxy_pass http://h; } location ~ ^/a { return 202; }")) == ["/a", "/a.*", "/a/"]


@pytest.mark.parametrize(("inner", "values"), [
    ("location /a { proxy_pass http://h:1; }", {}),
    ("location /a/ { proxy_pass http://h:1/; }", {"rewrite": "/"}),
    ("location /a/ { proxy_pass http://h:1/b/c/; }", {"rewrite": "/b/c/"}),
    ("location /a { proxy_pass http://unix:/run/x.sock:/y; }", {"rewrite": "/y"}),
    ("location /a { proxy_pass http://h:1/a; }", {}),
    ("location /a/ { rewrite ^/a/(.*)$ /z/$1 break; proxy_pass http://h; }", {"rewrite": "/z/"}),
    ("location /a { rewrite ^/a/(.*) /$1 break; proxy_pass http://h; }", {"strip_prefix": "/a"}),
    ("set $up h:1; location /a { proxy_pass http://$up; }", {}),
    ("location ~ ^/a/(.*)$ { proxy_pass https://h/$1$is_args$args; }", {"rewrite": r"/\1"}),
    ("location ~ /a/(.*) { proxy_pass http://h/v1/$1$is_args$args; }", {"rewrite": r"/v1/\1"}),
])
def test_the_path_that_goes_upstream(inner: str, values: dict[str, str]) -> None:
    found = routes(server(inner))[-1]
    assert {key: found[key] for key in ("rewrite", "strip_prefix") if key in found} == values


@pytest.mark.parametrize("inner", [
    "location /a { proxy_pass http://$arg_x; }",
    "location ~ ^/a/(.*)$ { proxy_pass http://h/$1; }",
    "location ~ ^/a/(.*)$ { proxy_pass http://$1/; }",
    "location /a { if ($request_method = POST) { return 405; rewrite a b; } proxy_pass http://h; }",
    "location /a { auth_request /auth; proxy_pass http://h; }",
    "location /a { allow 10.0.0.0/8; deny all; proxy_pass http://h; }",
    "location /a { if ($http_x) { return 403; } proxy_pass http://h; }",
    "location /a { root /srv; try_files $uri =404; }",
    "location /a { location /a/b { proxy_pass http://h; } proxy_pass http://h; }",
    "location /a { rewrite (.*) /b$1 last; proxy_pass http://h; }",
    "location /a { limit_except GET { deny all; } proxy_pass http://h; }",
    "location ~ /a { proxy_pass http://h/b; }",
    "location /a { fastcgi_pass unix:/run/php.sock; }",
    "auth_basic on; location /a { proxy_pass http://h; }",
    "rewrite ^/a /b last; location /a { proxy_pass http://h; }",
])
def test_what_cannot_be_converted_is_closed(inner: str) -> None:
    """A request for it gets 501; it goes neither upstream nor to a later route."""
    result = server(inner)
    assert next(one["respond"]["status"] for one in routes(result) if "redirect" not in one) == 501
    assert any(one.fidelity > 1 for one in result.entries)


def test_an_unusable_regular_expression_closes_the_paths_below_its_beginning() -> None:
    result = server(r"location ~ ^/app/(?!x)(.*)$ { proxy_pass http://h; } location / { proxy_pass http://h; }")
    assert routes(result)[0]["match"] == {"prefix": "/app/"} and routes(result)[0]["respond"]["status"] == 501
    result = server(r"location ~ (a+)+b { proxy_pass http://h; }")
    assert routes(result)[0]["match"] == {"prefix": "/"}


def test_headers_are_inherited_only_by_a_block_without_its_own() -> None:
    result = server('proxy_set_header X-A 1; location /a { proxy_pass http://h; } location /b { proxy_pass http://h; proxy_set_header X-B ""; }')
    found = {one["name"]: one.get("request_headers") for one in routes(result)}
    assert found == {"a": {"set": {"X-A": "1"}}, "b": {"remove": ["X-B"]}}


def test_a_key_in_a_header_becomes_the_key_of_the_upstream() -> None:
    result = server('location / { proxy_pass http://h; proxy_set_header Authorization "Bearer abc-def"; }')
    assert upstream(result)["auth"] == {"bearer": {"file": "/k/authorization-1"}}
    assert result.keys == {"authorization-1": "abc-def"}
    result = server("location / { proxy_pass http://h; proxy_set_header X-Api-Key abc-def; }")
    assert upstream(result)["auth"] == {"header": {"name": "X-Api-Key", "value": {"file": "/k/x-api-key-1"}}}


def test_limits_of_nginx_itself_are_written_out() -> None:
    """What nginx does without a directive is not what relayd does without a key."""
    result = server("location / { proxy_pass http://h; }")
    assert upstream(result)["timeouts"] == {"connect": "60s", "first_byte": "60s", "idle": "60s"}
    assert upstream(result)["breaker"] is False and routes(result)[0]["body_limit"] == "1MiB"
    result = server("client_max_body_size 0; location / { proxy_pass http://h; proxy_read_timeout 5m; proxy_connect_timeout 500ms; }")
    assert upstream(result)["timeouts"] == {"connect": "500ms", "first_byte": "5m", "idle": "5m"}
    assert routes(result)[0]["body_limit"] == 0


def test_a_group_of_servers() -> None:
    result = nginx("upstream g { ip_hash; server a:1 weight=2 max_conns=5; server b down; server c backup; server unix:/x; } "
                   "server { listen 80; location / { proxy_pass http://g; proxy_set_header Host $host; } }")
    found = upstream(result, "g")
    assert found["endpoints"] == [{"url": "http://a:1", "weight": 2, "limits": {"requests": 5}}, {"url": "http://c", "priority": 1}, "unix:/x"]
    assert found["balance"] == "consistent_hash" and found["hash"] == {"by": ["client"]} and found["host"] == "client"
    assert found["retries"]["attempts"] == 3


@pytest.mark.parametrize(("hash_by", "expected"), [
    ("$http_x_user", "header:x-user"), ("$cookie_sid", "cookie:sid"), ("$remote_addr", "client"), ("$request_uri", None),
])
def test_the_key_of_a_hash(hash_by: str, expected: str | None) -> None:
    result = nginx(f"upstream g {{ hash {hash_by} consistent; server a; server b; }} server {{ location / {{ proxy_pass http://g; }} }}")
    assert upstream(result).get("hash") == (None if expected is None else {"by": [expected]})


def test_servers_become_hosts_and_the_default_is_last() -> None:
    result = nginx("server { listen 80 default_server; server_name a.org; location / { return 200; } } "
                   "server { listen 80; server_name *.b.org .c.org; location /x { return 201; } } "
                   "server { listen 80; server_name d.org; location / { return 202; } }")
    assert [(one["match"].get("host"), one["respond"]["status"]) for one in routes(result)] == [
        (["d.org"], 202), (["*.b.org", "c.org", "*.c.org"], 201), (["*.b.org", "c.org", "*.c.org"], 404), (None, 200),
    ]


def test_a_private_server_is_not_published_on_the_public_listener() -> None:
    result = nginx("server { listen 80; server_name a.org; location / { return 200; } } "
                   "server { listen 127.0.0.1:9000; server_name b.org; location / { proxy_pass http://secret; } }")
    assert len(routes(result)) == 1 and list(result.draft.document("/k")["listeners"]) == ["public"]
    assert {str(one.fidelity) for one in result.entries} == {"by hand"}


def test_a_second_server_without_a_name_gets_no_requests() -> None:
    result = nginx("server { listen 80; location / { return 200; } }\nserver { listen 80; location / { return 201; } }")
    assert len(routes(result)) == 1 and "no request reaches" in result.entries[1].reasons[0]


@pytest.mark.parametrize(("listen", "address"), [
    ("80", "0.0.0.0:80"), ("*:81", "0.0.0.0:81"), ("[::]:80", "[::]:80"), ("10.0.0.1", "10.0.0.1:80"), ("localhost:82", "127.0.0.1:82"),
    ("unix:/run/x", "unix:/run/x"),
])
def test_listening_addresses(listen: str, address: str) -> None:
    result = nginx(f"server {{ listen {listen} reuseport backlog=9; location / {{ return 200; }} }}")
    assert result.draft.document("/k")["listeners"]["public"].value == {"address": address, "reuse_port": True, "backlog": 9}


def test_tls_of_a_listener() -> None:
    result = nginx("server { listen 443 ssl http2; server_name a.org; ssl_certificate /c; ssl_certificate_key /k; ssl_protocols TLSv1.3; location / { return 200; } }\n"
                   "server { listen 443 ssl; server_name b.org; location / { return 200; } }")
    assert result.draft.document("/k")["listeners"]["public"].value["tls"] == {"certificates": [{"cert": "/c", "key": "/k"}], "min_version": "1.3"}
    assert result.entries[1].fidelity == 2


def test_tls_to_an_endpoint() -> None:
    result = server("location / { proxy_pass https://h; proxy_ssl_verify on; proxy_ssl_trusted_certificate /ca; proxy_ssl_name n; }")
    assert upstream(result)["tls"] == {"ca": "/ca", "server_name": "n"} and result.entries[0].fidelity == 0
    assert server("location / { proxy_pass https://h; proxy_ssl_verify off; }").entries[0].fidelity == 1


@pytest.mark.parametrize(("answer", "values"), [
    ("return 301 https://$host$request_uri", {"redirect": {"location": "https://{host}{path}{query}", "status": 301}}),
    ("return 302 /new$is_args$args", {"redirect": {"location": "/new{query}", "status": 302}}),
    ("return https://x.org/", {"redirect": {"location": "https://x.org/", "status": 302}}),
    ("return 404", {"respond": {"status": 404}}),
    ("default_type application/json; return 200 '{\"a\": 1}'", {"respond": {"status": 200, "body": '{"a": 1}', "content_type": "application/json"}}),
    ("return 301 https://$server_name/", None),
    ("return 200 $host", None),
    ("return 444", None),
    ("internal", {"respond": {"status": 404}}),
])
def test_answers_of_a_location(answer: str, values: dict[str, Any] | None) -> None:
    found = routes(server(f"location /a {{ {answer}; }}"))[0]
    if values is None:
        assert found["respond"]["status"] == 501
    else:
        assert {key: found[key] for key in found if key in ("respond", "redirect")} == values


def test_a_condition_on_the_method_becomes_a_route_before_the_location() -> None:
    result = server("location /a { if ($request_method = 'OPTIONS') { add_header Access-Control-Allow-Origin *; add_header Content-Length 0; return 204; } proxy_pass http://h; }")
    assert routes(result)[0] == {"name": "a", "match": {"prefix": "/a", "method": ["OPTIONS"]}, "respond": {"status": 204, "headers": {"Access-Control-Allow-Origin": "*"}}}
    assert routes(result)[1]["upstream"] == "h"
    result = server("if ($request_method = TRACE) { return 405; } location /a { proxy_pass http://h; }")
    assert "upstream" in routes(result)[0]  # relayd never forwards TRACE
    result = server("if ($request_method = PUT) { return 405; } location /a { proxy_pass http://h; }")
    assert routes(result)[0]["match"] == {"method": ["PUT"]}


def test_a_server_that_redirects_everything_by_a_rewrite() -> None:
    found = routes(server("rewrite ^(.*)$ https://x.org$1 permanent;"))
    assert found[0]["redirect"] == {"location": "https://x.org{path}{query}", "status": 301}


def test_certbots_condition_on_the_host() -> None:
    result = server("server_name a.org; if ($host = www.a.org) { return 301 https://a.org$request_uri; } location / { return 200; }")
    assert routes(result)[0]["match"] == {"host": ["www.a.org"]} and routes(result)[1]["respond"]["status"] == 200


def test_included_files_are_read_and_missing_ones_named() -> None:
    result = nginx("http { include conf.d/*.conf; include other;\n include sites; }", sites="server { location / { return 200; } }")
    assert len(routes(result)) == 1 and result.entries[-1].file == "sites"
    assert "not found" in result.entries[0].reasons[-1]


def test_files_of_locations_only_get_a_listener() -> None:
    result = nginx("location /a { proxy_pass http://10.0.0.1:8001; }")
    assert result.draft.document("/k")["listeners"]["public"].value == {"address": "127.0.0.1:8282"} and len(result.remarks) == 1


@pytest.mark.parametrize(("text", "message"), [
    ("server {", "n.conf: a block is not closed"), ("location / { return 200 }", "n.conf:1: return lacks its semicolon"),
    ("}", "n.conf:1: unexpected }"), ("a 'b;\n", "n.conf:1: a quote is not closed"), (";", "n.conf:1: unexpected ;"),
    ("a b", "n.conf:1: a lacks its semicolon"), ("a ${b;", "n.conf:1: a variable is not closed"), ("x_by_lua_block { {", "n.conf:1: a block is not closed"),
])
def test_a_broken_file_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match="^" + message.replace("{", r"\{").replace("}", r"\}")):
        nginx(text)


def test_a_file_that_includes_itself() -> None:
    with pytest.raises(ValueError, match="includes itself"):
        nginx("include loop;", loop="include loop;")


def test_a_server_that_redirects_to_https_becomes_a_key_of_its_listener() -> None:
    """The usual ones: a return, certbot's conditions, a rewrite, and a location of challenges beside them."""
    secure = "server { listen 443 ssl; server_name a.org; ssl_certificate /c; ssl_certificate_key /k; location / { return 200; } }\n"
    for inner in ("return 301 https://$host$request_uri;", "if ($host = a.org) { return 301 https://$host$request_uri; } return 404;",
                  "rewrite ^ https://$host$request_uri? permanent;", "location /.well-known/acme-challenge/ { root /srv; } location / { return 308 https://$server_name$request_uri; }"):
        result = nginx(f"server {{ listen 80; listen [::]:80; server_name a.org; {inner} }}\n{secure}")
        found = {one.value["address"]: one.value.get("https_redirect") for one in result.draft.document("/k")["listeners"].values()}
        assert found == {"0.0.0.0:80": True, "[::]:80": True, "0.0.0.0:443": None}, inner
        assert [one["respond"]["status"] for one in routes(result)] == [200] and result.entries[0].fidelity == 1


def test_a_redirect_without_a_server_for_https_stays_a_route() -> None:
    result = nginx("server { listen 80; return 301 https://$host$request_uri; }")
    assert routes(result)[0]["redirect"]["location"] == "https://{host}{path}{query}"


def test_a_redirect_on_the_same_socket_is_by_hand() -> None:
    result = nginx("server { listen 443 ssl; server_name b.org; ssl_certificate /c; ssl_certificate_key /k; location / { return 200; } }\n"
                   "server { listen 80; server_name c.org; location / { return 200; } }\nserver { listen 80; server_name d.org; return 301 https://$host$request_uri; }")
    assert result.entries[-1].fidelity == 2


def test_a_server_whose_answer_cannot_be_converted_is_closed() -> None:
    assert routes(server("return 200 $host; location /x { proxy_pass http://h; }"))[0]["respond"]["status"] == 501


@pytest.mark.parametrize(("name", "hosts"), [(".a.org", ["a.org", "*.a.org"]), ("*.a.org", ["*.a.org"]), ("a.*", None), ("~^a", None), ("a.org b.org", ["a.org", "b.org"])])
def test_names_of_servers(name: str, hosts: list[str] | None) -> None:
    result = nginx(f"server {{ listen 80 default_server; location / {{ return 200; }} }}\nserver {{ listen 80;\n server_name {name};\n location / {{ return 201; }} }}")
    found = [one["match"].get("host") for one in routes(result) if one["respond"]["status"] == 201]
    assert found == ([] if hosts is None else [hosts])


@pytest.mark.parametrize("line", [
    "proxy_read_timeout forever", "proxy_send_timeout 5s", "proxy_set_header X-A $remote_user", "proxy_set_header Host $http_x_host", "proxy_set_header X-Forwarded-Proto https",
    "proxy_set_header Connection close", "proxy_set_header 'X A' b", "proxy_set_header X-A", "add_header X-A $host", "proxy_hide_header 'X A'", "client_max_body_size 1t",
    "proxy_redirect http://a/ /", "proxy_cache zone", "proxy_ssl_name $host", "proxy_intercept_errors on",
])
def test_lines_of_a_location_that_are_not_taken(line: str) -> None:
    result = server(f"location / {{ proxy_pass https://h;\n{line}; }}")
    assert result.entries[-1].fidelity >= 2 and routes(result)[0]["upstream"] == "h"


@pytest.mark.parametrize("line", [
    "proxy_set_header Host $proxy_host", "proxy_set_header Host h", "proxy_set_header Connection ''", "proxy_buffering off", "proxy_cache off", "proxy_redirect default", "proxy_redirect off",
    "proxy_set_header X-Real-IP $remote_addr", "proxy_set_header X-Up $http_x_up", "proxy_ignore_client_abort on", "proxy_ssl_verify on", "proxy_hide_header X-A", "add_header X-A b always",
])
def test_lines_of_a_location_that_are_exact(line: str) -> None:
    assert server(f"location / {{ proxy_pass http://h;\n{line}; }}" if "ssl" not in line else f"location / {{ proxy_pass https://h;\n{line}; }}").entries[-1].fidelity == 0


@pytest.mark.parametrize(("line", "fidelity"), [
    ("proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for", 1), ("proxy_set_header X-Forwarded-For $remote_addr", 1), ("proxy_buffering on", 1), ("add_header X-A b", 1),
    ("add_header Access-Control-Allow-Origin * always", 1), ("proxy_set_header Host $host", 1), ("proxy_set_header Host other.org", 0), ("proxy_next_upstream error", 1),
])
def test_lines_of_a_location_that_are_approximate(line: str, fidelity: int) -> None:
    result = nginx(f"server {{ listen 8080; location / {{\n{line};\nproxy_pass http://h; }} }}")
    assert result.entries[1].fidelity == fidelity
    assert line != "proxy_set_header Host other.org" or result.entries[2].fidelity == 1


@pytest.mark.parametrize(("listen", "fidelity"), [("80 proxy_protocol", 2), ("80 sctp", 3), ("[::1", 2), ("80 http2", 1), ("443 ssl", 2)])
def test_sockets_that_are_not_taken_as_they_are(listen: str, fidelity: int) -> None:
    result = nginx(f"server {{\nlisten {listen};\nlocation / {{ return 200; }} }}")
    assert result.entries[1].fidelity == fidelity


def test_tls_with_old_versions_and_with_ssl_on() -> None:
    result = nginx("server { listen 443; ssl on; ssl_certificate /c; ssl_certificate_key /k;\nssl_protocols TLSv1 TLSv1.2; location / { return 200; } }")
    assert result.draft.document("/k")["listeners"]["public"].value["tls"] == {"certificates": [{"cert": "/c", "key": "/k"}]} and result.entries[1].fidelity == 1
    result = nginx("server { listen 443 ssl;\nssl_certificate $x; ssl_certificate_key /k; location / { return 200; } }")
    assert result.entries[1].fidelity == 2 and list(result.draft.document("/k")["listeners"]) == ["local"]


def test_variables_by_map_are_by_hand_unless_they_are_the_usual_one() -> None:
    result = nginx("map $http_upgrade $connection_upgrade { default upgrade; }\nmap $a $b { x y; }\nserver { location / { return 200; } }")
    assert [one.fidelity for one in result.entries[:2]] == [0, 3]
