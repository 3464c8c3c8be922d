"""The limits of a configuration by the names of their gates."""

from __future__ import annotations

from relayd.config.load import load_text
from relayd.limits.gate import GateLimits
from relayd.plan.gates import gate_limits

TEXT = """
listeners: {public: {address: "127.0.0.1:8282"}}
upstreams:
  full: {endpoints: ["http://127.0.0.1:9001"], limits: {requests: 8, queue: 64, queue_timeout: 5s, ageing: 2s}}
  behind: {endpoints: [{url: "http://127.0.0.1:9002", limits: 2}], limits: {queue: 4}}
  free: {endpoints: ["http://127.0.0.1:9003"]}
routes:
  - {name: narrow, match: {prefix: /n}, upstream: full, limits: 3}
  - {name: wide, upstream: free}
"""


def test_what_limits_something_has_a_gate_and_nothing_else() -> None:
    assert gate_limits(load_text(TEXT, "c.yaml").config) == {
        "upstream full": GateLimits(8, 64, 5.0, 2.0),
        "upstream behind": GateLimits(0, 4, 30.0, 10.0),  # waits for room at its endpoint
        "route narrow": GateLimits(3, 0, 30.0, 10.0),
    }
