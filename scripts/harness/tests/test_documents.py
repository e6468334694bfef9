# SPDX-License-Identifier: GPL-2.0
"""Tests of the checks of documents."""

from pathlib import Path

from harness import documents


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# One two\n")
    page = tmp_path / "a.md"
    page.write_text("[x](b.md#one-two) [y](https://example.org) `[z](no.md)`\n")
    assert documents.broken_links([page]) == []
    page.write_text("[x](b.md#three) [y](c.md)\n")
    assert len(documents.broken_links([page])) == 2


def test_the_newest_release_is_the_first_that_has_a_date() -> None:
    assert documents.newest_release("## [Unreleased]\n## [0.2.0] - 2026-01-01\n## [0.1.0] - 2025-01-01\n") == "0.2.0"
    assert documents.newest_release("## [Unreleased]\n") == ""


def test_patterns_of_maintainers_match_files() -> None:
    files = ["a/b/c.rs", "Makefile"]
    assert documents.empty_patterns("F:\ta/\nF:\t*\nX:\ta/b/*\n", files) == []
    assert documents.empty_patterns("F:\tb/\nF:\ta/*\n", files) == ["b/", "a/*"]
