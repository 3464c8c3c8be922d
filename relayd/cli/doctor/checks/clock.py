"""The clock: plausible, and synchronised according to systemd or the kernel. Certificates and keys depend on it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncGenerator

import relayd
from relayd import clock
from relayd.cli.diagnosis import Finding, failure, fine, unknown, warning
from relayd.cli.doctor.examination import Context
from relayd.daemon.preflight import DAY_S, day_of

SYNCHRONIZED = "/run/systemd/timesync/synchronized"  # systemd-timesyncd.service(8)
CURE = "timedatectl set-ntp true; or apt install systemd-timesyncd, or chrony"
TIME_ERROR = 5  # adjtimex(2)


async def run(context: Context) -> AsyncGenerator[Finding, None]:
    yield plausibility(clock.wall(), os.stat(relayd.__file__).st_mtime)
    yield synchronisation(os.path.exists(SYNCHRONIZED), kernel_state())


def plausibility(now_s: float, built_s: float) -> Finding:
    """A clock before the date of relayd's own files is wrong; `built_s` is that date."""
    if now_s < built_s - DAY_S:
        cause = f"it is {day_of(now_s)}, but relayd itself is of {day_of(built_s)}"
        return failure("clock", cause, CURE)
    return fine("clock", f"{day_of(now_s)} is plausible")


def synchronisation(by_systemd: bool, kernel: int | None) -> Finding:
    """`kernel`: the result of adjtimex, None if it is unknown."""
    if by_systemd or (kernel is not None and kernel != TIME_ERROR):
        return fine("clock", "is synchronised")
    if kernel is None:
        return unknown("clock", "whether it is synchronised is not known")
    return warning("clock", "no time service synchronises it", CURE)


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2); only its size and a zero in `modes` matter: nothing is changed."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_byte * 252))


def kernel_state() -> int | None:
    """The state of the kernel's clock (TIME_OK ... TIME_ERROR); None if it cannot be asked."""
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex())))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None
