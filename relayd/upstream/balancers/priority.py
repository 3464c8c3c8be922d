"""In the order in which the endpoints are written: the first that may be asked and has room; round_robin among equals.

Priority itself is a layer of every upstream (`priority:` of an endpoint, 0 first): the endpoints of the next number are
asked only when none of the number before is available and has room. This word only fills it in: endpoints whose
`priority` is not written are numbered 0, 1, 2 ... as they stand in the list.
"""

from __future__ import annotations

from typing import ClassVar

from relayd.schema import section
from relayd.upstream.balancers import round_robin


@section()
class Options:
    """Nothing to choose."""


class Balancer(round_robin.Balancer):
    """Round robin inside one priority; the layer itself is the upstream's."""

    __slots__ = ()
    numbers_endpoints: ClassVar[bool] = True
