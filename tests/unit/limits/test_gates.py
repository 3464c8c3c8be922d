"""All gates by name, over reloads."""

from __future__ import annotations

from relayd.limits.gate import GateLimits
from relayd.limits.gates import Gates
from relayd.limits.ticket import GRANTED, REFUSED, Ticket
from tests.unit.limits.gate_rig import Hand

ONE = GateLimits(1, 5, 30.0)


def made(**limits: GateLimits) -> tuple[Gates, Hand]:
    clock = Hand()
    gates = Gates(clock)
    gates.apply(limits)
    return gates, clock


def wait(gates: Gates, name: str) -> tuple[Ticket, list[str]]:
    reported: list[str] = []
    ticket = gates.get(name).acquire(
        "a", 0, None, lambda ticket: reported.append("granted"), lambda ticket, reason, seconds: reported.append(reason)
    )
    return ticket, reported


def test_a_gate_is_the_same_after_a_reload_and_has_the_new_limits() -> None:
    gates, _ = made(u=ONE)
    gate = gates.get("u")
    wait(gates, "u")
    second, reported = wait(gates, "u")
    gates.apply({"u": GateLimits(2, 5)})
    assert gates.get("u") is gate
    assert (second.state, reported, gate.in_flight) == (GRANTED, ["granted"], 2)


def test_a_gate_is_the_same_from_compiling_to_coming_into_force() -> None:
    """Between the two a reload waits, and the sweep goes on."""
    gates, clock = made(u=ONE)
    asked = gates.get("v")
    gates.sweep(clock.now_s)
    gates.apply({"u": ONE, "v": ONE})
    assert gates.get("v") is asked


def test_a_discarded_plan_leaves_no_gate_behind() -> None:
    gates, _ = made(u=ONE)
    asked = gates.get("v")
    assert gates.get("v") is asked and [gate.name for gate in gates] == ["u"]
    del asked
    assert gates.names() == {"u"}


def test_plans_that_are_compiled_side_by_side_name_the_same_gate() -> None:
    gates, _ = made()
    first, second = gates.get("v"), gates.get("v")
    gates.apply({"v": ONE})
    assert first is second is gates.get("v") and first.limits == ONE


def test_a_gate_of_an_old_plan_is_found_again_as_long_as_the_plan_lives() -> None:
    gates, _ = made(u=ONE)
    old = gates.get("u")
    gates.apply({})
    assert list(gates) == [] and gates.get("u") is old


def test_a_gate_that_no_plan_names_lives_until_the_last_one_has_left() -> None:
    gates, clock = made(u=ONE)
    first, _ = wait(gates, "u")
    second, reported = wait(gates, "u")
    old = gates.get("u")
    gates.apply({})
    assert [gate.name for gate in gates] == ["u"]
    clock.now_s += 31
    gates.sweep(clock.now_s)
    assert (second.state, reported) == (REFUSED, ["queue_timeout"])
    assert gates.get("u") is old
    old.release(first)
    gates.sweep(clock.now_s)
    assert list(gates) == []


def test_wake_reaches_all_gates() -> None:
    gates, _ = made(u=GateLimits(0, 5), v=GateLimits(0, 5))
    has_capacity: list[int] = []
    tickets = [
        gates.get(name).acquire("a", 0, None, lambda ticket: None, lambda ticket, reason, seconds: None, lambda: bool(has_capacity))
        for name in "uv"
    ]
    has_capacity.append(1)
    gates.wake()
    assert [ticket.state for ticket in tickets] == [GRANTED, GRANTED]


def test_only_gates_with_limits_are_listed() -> None:
    gates, _ = made(b=ONE, free=GateLimits(), a=ONE)
    assert [gate.name for gate in gates.limited()] == ["a", "b"]
