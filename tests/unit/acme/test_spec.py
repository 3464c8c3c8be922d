"""One certificate per name, shared by listeners."""

from __future__ import annotations

from relayd.acme.spec import specs_of
from relayd.config.acme import Acme
from relayd.config.listener import Listener, Tls


def test_each_name_is_one_certificate_of_the_first_listener_that_wants_it() -> None:
    tls = Tls(acme=Acme(domains=("A.example", "*.b.example"), challenges=("tls-alpn-01", "http-01")))
    listeners = {"a": Listener(address="[::]:443", tls=tls), "b": Listener(address="[::]:8443", tls=tls), "c": Listener(address="[::]:80")}
    assert [(one.name, one.kinds) for one in specs_of(listeners)] == [("a.example", ("tls-alpn-01", "http-01")), ("*.b.example", ("dns-01",))]
    assert specs_of({"c": listeners["c"]}) == ()
