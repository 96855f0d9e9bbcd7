"""What the command line itself refuses, wrong usage apart, which is ``click.UsageError``."""

from __future__ import annotations

__all__ = ["TargetError"]


class TargetError(Exception):
    """The user's target cannot be loaded; the text ends with its traceback where there is one."""
