# SPDX-License-Identifier: GPL-2.0
"""Paths of the work tree and of the cache that scripts/setup fills."""

import os
from pathlib import Path

from harness.errors import Failure

HERE = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("BINDER_RS_CACHE") or "/var/cache/binder-rs")
BUILD = HERE / "build"
DRIVER = HERE / "drivers/android/binder"
SELFTESTS = HERE / "tools/testing/selftests/binder"
IN_ROOT = HERE / "scripts/in-root"


def kernel_version() -> str:
    """The version that KVER names, or the one that was set up last."""
    if named := os.environ.get("KVER"):
        return named
    default = CACHE / "kernels/default"
    if default.is_symlink():
        return str(default.readlink())
    raise Failure(f"no kernel in {CACHE}/kernels: run scripts/setup")


def kernel() -> Path:
    """The directory of that kernel: its packages, source and build tree."""
    return CACHE / "kernels" / kernel_version()


def kbuild(output: Path, *arguments: str) -> list[str | Path]:
    """The command that builds the driver with the kernel's rules into a directory."""
    command: list[str | Path] = [IN_ROOT, "make", "--no-print-directory", "-C", kernel() / "build"]
    command += [f"M={DRIVER}", f"MO={output}", "CC=x86_64-linux-gnu-gcc-14", "CROSS_COMPILE=x86_64-linux-gnu-"]
    return [*command, *arguments]
