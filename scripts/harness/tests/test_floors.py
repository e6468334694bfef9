# SPDX-License-Identifier: GPL-2.0
"""Tests of the check of floors."""

from harness import floors

CRATE = """
// Floor 0: ground.
mod sys;

// Floor 1: memory.
mod pages;

// Floor 2: protocol.
mod node;

mod process;
"""


def test_imports_are_read_from_groups_and_paths() -> None:
    grouped = "use crate::{\n    node::{Node, NodeArc},\n    sys::fd, //\n};\n"
    text = grouped + "use crate::pages::Page;\nfn f() { crate::process::g() }\n"
    assert floors.imports(text) == {"node", "sys", "pages", "process"}


def test_comments_and_tests_import_nothing() -> None:
    text = "// crate::node is not used\n#[kunit_tests(x)]\nmod tests { use crate::process::Process; }\n"
    assert floors.imports(text) == set()


def test_imports_lead_down_or_stay_on_a_floor() -> None:
    files = {
        "sys.rs": "use crate::sys::fd;",
        "sys/fd.rs": "use crate::node::Node;",
        "pages.rs": "use crate::sys::fd;",
        "pages/slot.rs": "use crate::process::Process;",
        "node.rs": "use crate::{process::Process, pages::Page};",
    }
    assert floors.upward(files, CRATE) == [
        "pages/slot.rs: imports process, which is on floor 2 above 1",
        "sys/fd.rs: imports node, which is on floor 2 above 0",
    ]


def test_a_module_needs_a_floor() -> None:
    assert floors.upward({}, "mod lost;\n") == ["mod lost stands under no floor"]


def test_unsafe_code_is_found_outside_its_rooms() -> None:
    files = {
        "sys/fd.rs": "unsafe { f() }",
        "debug/sys.rs": "unsafe impl Send for X {}",
        "node.rs": "// unsafe { }\n#![forbid(unsafe_code)]\nlet x = unsafe { f() };\n",
    }
    assert floors.unsafe_elsewhere(files, ("sys/*.rs",)) == ["debug/sys.rs:1: unsafe code", "node.rs:3: unsafe code"]
