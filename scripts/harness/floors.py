# SPDX-License-Identifier: GPL-2.0
"""The floors of the driver: imports between floors lead down only, and unsafe code is in few files."""

import re
from fnmatch import fnmatch

FLOOR = re.compile(r"^// Floor (\d): .*$|^(?:pub\(crate\) )?mod (\w+);$", re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*")
TESTS = re.compile(r"^#\[kunit_tests", re.MULTILINE)
USE = re.compile(r"\bcrate::(\w+)|\buse crate::\{")
UNSAFE = re.compile(r"\bunsafe\s*(?:\{|impl\b|fn\b|extern\b|trait\b)")


def floors(crate: str) -> dict[str, int]:
    """The floor of each module, by the comments in the text of the crate's first file."""
    found: dict[str, int] = {}
    floor = -1
    for match in FLOOR.finditer(crate):
        if match[1]:
            floor = int(match[1])
        else:
            found[match[2]] = floor
    return found


def group(text: str, start: int) -> list[str]:
    """The first names in the group of imports whose brace ends at `start`."""
    names, depth, fresh = [], 1, True
    for word in re.findall(r"\w+|[{},]|::|\*", text[start:]):
        if word == "{":
            depth += 1
        elif word == "}":
            depth -= 1
            if depth == 0:
                break
        elif word == ",":
            fresh = True
        elif depth == 1 and fresh and re.match(r"\w", word):
            names.append(word)
            fresh = False
    return names


def imports(text: str) -> set[str]:
    """The modules of the crate that a file names, without its tests."""
    code = COMMENT.sub("", TESTS.split(text)[0])
    found: set[str] = set()
    for match in USE.finditer(code):
        found.update([match[1]] if match[1] else group(code, match.end()))
    return found


def upward(files: dict[str, str], crate: str) -> list[str]:
    """What is wrong with the imports of `files`, which are named as below the driver's directory."""
    floor_of = floors(crate)
    wrong = [f"mod {name} stands under no floor" for name, floor in floor_of.items() if floor < 0]
    for name, text in sorted(files.items()):
        own = name.removesuffix(".rs").split("/")[0]
        if own not in floor_of:
            continue
        for used in sorted(imports(text)):
            if floor_of.get(used, -1) > floor_of[own]:
                wrong.append(f"{name}: imports {used}, which is on floor {floor_of[used]} above {floor_of[own]}")
    return wrong


def unsafe_elsewhere(files: dict[str, str], rooms: tuple[str, ...]) -> list[str]:
    """The lines with unsafe code in files that are none of `rooms`."""
    wrong = []
    for name, text in sorted(files.items()):
        if any(fnmatch(name, room) for room in rooms):
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if UNSAFE.search(COMMENT.sub("", line)):
                wrong.append(f"{name}:{number}: unsafe code")
    return wrong
