# SPDX-License-Identifier: GPL-2.0
"""Tests of the results that the scripts write."""

from harness.ktap import Report
from harness.ktap import Result


def test_a_failure_comes_with_its_reason() -> None:
    lines: list[str] = []
    report = Report(2, lines.append)
    report.add(Result("one", True))
    assert report.status() == 1
    report.add(Result("two", False, "a\nb"))
    assert lines == ["KTAP version 1", "1..2", "ok 1 one", "# a", "# b", "not ok 2 two"]
    assert report.status() == 1


def test_skips_alone_are_no_success() -> None:
    lines: list[str] = []
    report = Report(1, lines.append)
    report.add(Result("one", False, "no device", skipped=True))
    assert lines[-1] == "ok 1 one # SKIP no device"
    assert report.status() == 1
