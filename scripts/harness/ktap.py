# SPDX-License-Identifier: GPL-2.0
"""Results of tests, written as KTAP."""

from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """The result of one test, and the reason if it did not pass."""

    name: str
    passed: bool
    reason: str = ""
    skipped: bool = False

    def lines(self, number: int) -> list[str]:
        """The KTAP lines of the result; the reason of a failure comes before it."""
        if self.skipped:
            return [f"ok {number} {self.name} # SKIP {self.reason}"]
        if self.passed:
            return [f"ok {number} {self.name}"]
        return [*(f"# {line}" for line in self.reason.splitlines()), f"not ok {number} {self.name}"]


class Report:
    """Writes results as they come. The plan is known before the first."""

    def __init__(self, plan: int, write: Callable[[str], object] = lambda text: print(text, flush=True)) -> None:
        self.plan = plan
        self.write = write
        self.number = 0
        self.passed = 0
        self.failed = 0
        self.write("KTAP version 1")
        self.write(f"1..{plan}")

    def add(self, result: Result) -> None:
        """Writes one result."""
        self.number += 1
        if not result.skipped:
            self.passed += result.passed
            self.failed += not result.passed
        for line in result.lines(self.number):
            self.write(line)

    def status(self) -> int:
        """The exit status: 0 if the plan was kept, a test passed and none failed."""
        return 0 if self.number == self.plan and self.passed and not self.failed else 1


def report(results: Iterable[Result]) -> int:
    """Writes all results; returns the exit status."""
    results = list(results)
    writer = Report(len(results))
    for result in results:
        writer.add(result)
    return writer.status()
