"""What the configurations of all runs share: their padded lengths, to a dictionary and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

from jaxflow.errors import InputError
from jaxflow.models.fields import check_fields

__all__ = ["RunRecord"]


class RunRecord:
    """Base of the frozen records that determine a run."""

    data: Path | None
    positions: int
    buckets: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The padded lengths in use, the last one holding every sentence that fits."""
        return (*sorted(size for size in self.buckets if size < self.positions), self.positions)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON-ready dictionary."""
        fields: dict[str, Any] = dataclasses.asdict(self)  # type: ignore[call-overload]
        fields["data"] = None if self.data is None else str(self.data)
        fields["buckets"] = list(self.buckets)
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Build a configuration from `to_dict`'s result.

        Raises
        ------
        InputError
            If a field is unknown or holds an impossible value.
        """
        try:
            check_fields(cls, fields)
        except InputError as error:
            raise InputError(f"the run's configuration does not fit: {error}") from error
        fields = dict(fields)
        if fields.get("data") is not None:
            fields["data"] = Path(fields["data"])
        if "buckets" in fields:
            fields["buckets"] = tuple(fields["buckets"])
        return cls(**fields)
