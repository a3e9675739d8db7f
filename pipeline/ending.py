"""How a run ended, in words and numbers that outlive it: for ML Metadata, for who asks from outside, for who is told."""

from __future__ import annotations

import enum

import pydantic


class Verdict(enum.StrEnum):
    """How a run ended, in a word."""

    PUBLISHED = "published"
    REFUSED = "refused"
    """By the gate for data or for models, or rolled back before."""
    FAILED = "failed"
    UP_TO_DATE = "up to date"
    """Nothing had changed."""


class Ending(pydantic.BaseModel):
    """The end of a run."""

    model_config = pydantic.ConfigDict(frozen=True)

    pipeline: str
    """Its name."""
    run: str
    """Its id."""
    verdict: Verdict
    reason: str = ""
    """Why nothing was published, in words."""
    node: str | None = None
    """That failed or refused."""
    version: int | None = None
    """That was published, now or, if nothing had changed, before."""
    accuracy: float | None = None
    """Of the model on the test split."""
    accuracy_interval: tuple[float, float] | None = None
    """Wilson's, 95 %."""
    test_pictures: int | None = None
    baseline_accuracy: float | None = None
    """Of the model that was live, on the same pictures, or on those that `baseline_note` says."""
    baseline_note: str = ""
    """Which pictures and labels the two models were compared on, where they know different labels."""
    look: str = ""
    """Where to look for more."""

    @property
    def succeeded(self) -> bool:
        """Whether the model that was wanted is published."""
        return self.verdict in {Verdict.PUBLISHED, Verdict.UP_TO_DATE}

    @property
    def text(self) -> str:
        """The end in a line."""
        parts = [f"{self.pipeline}: {self.verdict}"]
        if self.node and not self.succeeded:
            parts[0] += f" in {self.node}"
        if self.reason:
            parts.append(self.reason)
        if self.version is not None:
            parts.append(f"version {self.version}")
        if self.accuracy is not None:
            interval = (
                f", {self.accuracy_interval[0]:.4f} to {self.accuracy_interval[1]:.4f}" if self.accuracy_interval else ""
            )
            parts.append(f"test accuracy {self.accuracy:.4f}{interval} on {self.test_pictures} pictures")
        return "; ".join(parts)
