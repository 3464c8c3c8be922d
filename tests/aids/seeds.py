"""The accounts of the stacks that relayd replaces: for every promise of such a stack, where it is shown, or why it is none of relayd.

A promise is a row, numbered as in the list of promises that the examples were written from. A row is shown by a test of the
stack's module (its name begins with the number: test_2_14_...), by tests elsewhere, or it is outside of relayd, with the reason;
nothing is ticked that was not run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Elsewhere:
    """Tests of other files, as file::name."""

    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outside:
    """Not a promise of relayd; the manual says so."""

    reason: str


Account = Elsewhere | Outside


def elsewhere(*tests: str) -> Elsewhere:
    return Elsewhere(tests)


def faults_of(file: str, seed: int, rows: int, accounts: Mapping[int, Account]) -> Iterator[str]:
    """What is wrong with the account of a stack; nothing if every row has exactly one."""
    own = {int(number) for number in re.findall(rf"^def test_{seed}_(\d+)_", Path(file).read_text(encoding="utf-8"), re.MULTILINE)}
    for number in range(1, rows + 1):
        if (number in own) + (number in accounts) != 1:
            yield f"row {seed}.{number} has {'two accounts' if number in own else 'none'}"
    yield from (f"row {seed}.{number} does not exist" for number in own | set(accounts) if not 1 <= number <= rows)
    for number, account in accounts.items():
        if isinstance(account, Elsewhere):
            for test in account.tests:
                path, _, name = test.partition("::")
                text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
                if re.search(rf"^(?:async )?def {re.escape(name)}\(", text, re.MULTILINE) is None:
                    yield f"row {seed}.{number}: there is no test {test}"
