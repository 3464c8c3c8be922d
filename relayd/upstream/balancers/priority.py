"""Failover in the configured order: the first endpoint that is available and has capacity; round_robin among equals.

Priority itself is a layer of every upstream (`priority:` of an endpoint, 0 first): the endpoints of the next priority
are used only if no endpoint of the previous one is available and has capacity. This kind only sets defaults: endpoints
without a `priority` are numbered 0, 1, 2 ... in the order of the list.
"""

from __future__ import annotations

from typing import ClassVar

from relayd.schema import section
from relayd.upstream.balancers import round_robin


@section()
class Options:
    """No options."""


class Balancer(round_robin.Balancer):
    """Round robin within one priority; rotation.py implements the priorities."""

    __slots__ = ()
    numbers_endpoints: ClassVar[bool] = True
