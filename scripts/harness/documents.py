# SPDX-License-Identifier: GPL-2.0
"""Checks of the documents: links, the version and the list of maintainers."""

import re
from pathlib import Path

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
RELEASE = re.compile(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", re.MULTILINE)
DRIVER_VERSION = re.compile(r"^BINDER_RS_VERSION := (\S+)$", re.MULTILINE)
PATTERN = re.compile(r"^[FX]:\t(\S+)$", re.MULTILINE)
CODE = re.compile(r"`[^`\n]*`")


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as the usual viewers of Markdown make them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        name, number = plain, 0
        while name in found:
            number += 1
            name = f"{plain}-{number}"
        found.add(name)
    return found


def broken_links(documents: list[Path]) -> list[str]:
    """The links inside the tree that lead nowhere."""
    broken = []
    for document in documents:
        text = CODE.sub("", FENCE.sub("", document.read_text()))
        for link in LINK.findall(text):
            if re.match(r"[a-z][a-z+.-]*:", link):
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            if not target.exists():
                broken.append(f"{document}: {link}: no such file")
            elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text()):
                broken.append(f"{document}: {link}: no such heading")
    return broken


def driver_version(makefile: str) -> str:
    """The version in the text of the driver's Makefile."""
    found = DRIVER_VERSION.search(makefile)
    return found[1] if found else ""


def newest_release(changelog: str) -> str:
    """The first version in the text of the changelog. What is unreleased has none."""
    found = RELEASE.search(changelog)
    return found[1] if found else ""


def empty_patterns(maintainers: str, files: list[str]) -> list[str]:
    """The patterns of a list of maintainers that match no file."""
    return [pattern for pattern in PATTERN.findall(maintainers) if not any(matches(pattern, file) for file in files)]


def matches(pattern: str, file: str) -> bool:
    """Whether a pattern of a list of maintainers covers a file: "/" at the end covers what is below."""
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    return re.match(expression if pattern.endswith("/") else f"{expression}$", file) is not None
