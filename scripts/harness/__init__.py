# SPDX-License-Identifier: GPL-2.0
"""What the scripts share: where things are, what KTAP is, what a failure is."""
