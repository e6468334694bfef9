# SPDX-License-Identifier: GPL-2.0
"""The failure that a script reports instead of a result."""


class Failure(Exception):
    """A precondition is missing. The text says which, and what to do."""
