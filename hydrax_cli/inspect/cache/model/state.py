"""What the app knows of one cache beyond what lies on the disk: what reading it has shown, and what is being done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from hydrax_cli.inspect.cache.model.verdicts import Verdicts

if TYPE_CHECKING:
    from hydrax_cli.inspect.cache.model.values import Group, Progress
    from hydrax_core.cache import Finding

__all__ = ["Doing", "GroupState"]

Doing: TypeAlias = Literal["", "verify", "repair", "clear"]

_MOST_FINDINGS: Final = 10_000


@dataclass(slots=True, eq=False)
class GroupState:
    """One cache.

    Attributes:
        group: The cache as it was seen last.
        verdicts: Which entries are known to be sound or bad.
        findings: What the last verify or repair found, as far as it is kept.
        found: How much it found.
        progress: How far that is, ``None`` before the first.
        doing: What is being done now.
        did: What the findings come from.
    """

    group: Group
    verdicts: Verdicts = field(default_factory=Verdicts)
    findings: list[Finding] = field(default_factory=list)
    found: int = 0
    progress: Progress | None = None
    doing: Doing = ""
    did: Doing = ""
    _begun: float | None = None

    def begin(self, doing: Doing, at: float) -> None:
        """A verify or repair begins; what is known stays until that has got anywhere."""
        self.doing, self._begun = doing, at

    def tell(self, progress: Progress) -> None:
        """It is so far; one that fails at once, such as a repair while a run writes, leaves everything as it was."""
        failed = progress.end not in ("", "done", "stopped")
        if self._begun is not None and not failed:
            self.did, self.found = self.doing, 0
            self.findings.clear()
            self.verdicts.begin(self._begun)
            self._begun = None
        if self._begun is None:
            self.progress = progress
            self.found += len(progress.findings)
            self.findings += progress.findings[: max(0, _MOST_FINDINGS - len(self.findings))]
            self.verdicts.add(progress.findings)
            self.verdicts.read_to(progress.read_to)
        if progress.end:
            self.doing, self._begun = "", None
        if progress.end == "done":
            self.verdicts.finish()

    @property
    def mendable(self) -> bool:
        """Whether a repair would change something, as far as is known."""
        return any(not finding.repaired and finding.what not in ("foreign", "stale") for finding in self.findings)
