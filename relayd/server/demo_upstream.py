"""The definition of the built-in upstream `demo`, whose endpoint is the server of `demo`."""

from __future__ import annotations

from relayd.upstream.spec import EndpointSpec, UpstreamSpec


def demo_spec(path: str) -> UpstreamSpec:
    """The upstream definition of the demo."""
    endpoint = EndpointSpec(origin="http://localhost", base_path="", label="demo", unix=path)
    return UpstreamSpec(name="demo", endpoints=(endpoint,), protocol="openai_chat")
