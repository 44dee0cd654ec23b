"""The section `[data]` of the configuration: where the data is and how it is read."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pplr.data.cleaning import CleaningSettings
from pplr.data.columns import ColumnNames
from pplr.data.readers import Format
from pplr.data.splits import LeaveOneOut, SplitSettings


class DataSettings(BaseModel):
    """Where the data is and how it is read: either `demo`, or the files `events` and `items`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    demo: Literal["movietweetings"] | None = Field(
        default=None, description="Data shipped with pplr, instead of files of your own: 'movietweetings'."
    )
    events: Path | None = Field(
        default=None,
        description="File with one row per event; a relative path starts at the configuration file's folder.",
    )
    items: Path | None = Field(
        default=None,
        description="File with one row per item; a relative path starts at the configuration file's folder.",
    )
    format: Format = Field(default="auto", description="Format of both files; auto goes by each file's name.")
    columns: ColumnNames = Field(default_factory=ColumnNames, description="Which column of the files is what.")
    cleaning: CleaningSettings = Field(default_factory=CleaningSettings, description="What is changed in the data.")
    split: SplitSettings = Field(default_factory=LeaveOneOut, description="How training, validation and test are cut.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        files = [name for name in ("events", "items") if getattr(self, name) is not None]
        if self.demo is not None and files:
            raise ValueError(f"data.demo and data.{files[0]} exclude each other: leave one of them out.")
        if self.demo is None and len(files) != 2:
            missing = [name for name in ("events", "items") if name not in files]
            raise ValueError(
                f"data.{' and data.'.join(missing)} must name a file, or data.demo must be 'movietweetings'."
            )
        return self


def resolve_paths(settings: DataSettings, base: Path) -> DataSettings:
    """Return the settings with `events` and `items` as absolute paths; relative ones start at the folder `base`."""
    found = {name: getattr(settings, name) for name in ("events", "items")}
    return settings.model_copy(update={name: absolute(path, base) for name, path in found.items() if path is not None})


def absolute(path: Path, base: Path) -> Path:
    """Return `path` as an absolute one; a relative one starts at the folder `base`, and `~` is the home folder."""
    with suppress(
        RuntimeError
    ):  # "~name" of no user is a name like any other: there is no such file, and it is said so
        path = path.expanduser()
    return (base / path).resolve()
