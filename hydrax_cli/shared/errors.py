"""What the command line itself refuses, wrong usage apart, which is ``click.UsageError``."""

from __future__ import annotations

__all__ = ["TargetError"]


class TargetError(Exception):
    """The user's target cannot be had; the text ends with their own traceback where there is one."""
