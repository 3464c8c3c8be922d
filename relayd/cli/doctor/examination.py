"""Runs the checks of `relayd doctor` concurrently, each with a time limit.

A module of relayd/cli/doctor/checks/ is a check; its name is the name on the command line, its docstring the manual
entry. It defines `run(context)`, an asynchronous generator of findings, and may define NEEDS_CONFIGURATION = True.

1. A check changes nothing and sends nothing but what its docstring says.
2. A check never blocks the loop: `Context.in_thread` runs blocking calls.
3. A check that fails by itself or exceeds its time limit becomes a finding; the findings it made before are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import field
from functools import partial
from typing import Any, ParamSpec, TypeVar

from relayd import registry
from relayd.cli.admin_client import Unreachable, send_request
from relayd.cli.diagnosis import Finding, fine, unknown, warning
from relayd.config.load import Loaded
from relayd.config.model import Config
from relayd.dataclass import dataclass

CHECKS = "relayd.cli.doctor.checks"
CHECK_S = 20.0
ADMIN_S = 5.0
PROGRAM_S = 15.0

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class Context:
    """What the checks know. Owned by one run of `relayd doctor`.

    `loaded` is the configuration, None if this user cannot load it. `as_root` is true for root. `is_installed` is true
    if the configuration is the one of the installed service.
    """

    path: str
    arguments: argparse.Namespace
    loaded: Loaded | None = None
    as_root: bool = False
    is_installed: bool = False
    timeout_s: float = CHECK_S
    _pages: dict[str, asyncio.Task[dict[str, Any]]] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """The configuration, for checks with NEEDS_CONFIGURATION."""
        assert self.loaded is not None
        return self.loaded.config

    async def in_thread(self, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run a blocking call in a thread that does not delay the end of the process. Raises what the call raises."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def deliver(value: T | None, error: BaseException | None) -> None:
            if result.done():
                return
            if error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)  # type: ignore[arg-type]

        def work() -> None:
            try:
                answer = partial(deliver, call(*arguments, **named), None)
            except Exception as error:  # rescue door: the error is raised in the check
                answer = partial(deliver, None, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(answer)

        threading.Thread(target=work, name="doctor", daemon=True).start()
        return await result

    async def program(self, *argv: str) -> tuple[int, str]:
        """Run a program. Returns its exit code and its standard output. Raises OSError, subprocess.TimeoutExpired."""
        ran = await self.in_thread(partial(
            subprocess.run, argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=PROGRAM_S, check=False, env={**os.environ, "LC_ALL": "C"},
        ))  # fmt: skip
        return ran.returncode, ran.stdout

    async def page(self, target: str, method: str = "GET") -> dict[str, Any]:
        """A page of the running relayd, asked once. Raises Unreachable."""
        if target not in self._pages:
            self._pages[target] = asyncio.create_task(self._ask(target, method))
        return await asyncio.shield(self._pages[target])

    async def _ask(self, target: str, method: str) -> dict[str, Any]:
        response = await self.in_thread(send_request, self.arguments, method, target, ADMIN_S)
        try:
            data = json.loads(response.body)
        except ValueError as error:
            raise Unreachable(f"{target} is answered with something else than JSON") from error
        if not isinstance(data, dict) or response.status not in (200, 422):
            raise Unreachable(f"{target} is answered {response.status}")
        return data


@dataclass(slots=True)
class Result:
    """The findings of one check, and how long it took."""

    check: str
    findings: list[Finding] = field(default_factory=list)
    took_s: float = 0.0


async def examine(
    context: Context, names: Sequence[str], timeout_s: float, on_done: Callable[[Result], None] = lambda result: None
) -> list[Result]:
    """Run these checks, in the order of `names`. All of them end within `timeout_s`."""
    context.timeout_s = min(timeout_s, CHECK_S)
    return list(await asyncio.gather(*(_run(context, name, on_done) for name in names)))


async def _run(context: Context, name: str, on_done: Callable[[Result], None]) -> Result:
    loop = asyncio.get_running_loop()
    result, began_s = Result(name), loop.time()
    try:
        check = registry.load(CHECKS, name)
        if getattr(check, "NEEDS_CONFIGURATION", False) and context.loaded is None:
            cause, cure = "the configuration cannot be loaded", "see the findings of the check `configuration`"
            result.findings.append(unknown(name, cause, cure))
        else:
            findings: AsyncGenerator[Finding, None] = check.run(context)
            async with asyncio.timeout(context.timeout_s), contextlib.aclosing(findings):
                async for finding in findings:
                    result.findings.append(finding)
    except TimeoutError:
        cure = f"give it more time: relayd doctor --timeout 60s {name}"
        result.findings.append(warning(name, f"the check did not end within {context.timeout_s:g} s", cure))
    except Exception as error:  # rescue door: a check that fails must not hide the results of the others
        cause = f"the check failed: {type(error).__name__}: {error}"
        result.findings.append(unknown(name, cause, "report this as a fault of relayd"))
    if not result.findings:
        result.findings.append(fine(name, "nothing to report"))
    result.took_s = loop.time() - began_s
    on_done(result)
    return result


def all_checks() -> tuple[str, ...]:
    """The names of all checks."""
    return registry.kinds(CHECKS)
