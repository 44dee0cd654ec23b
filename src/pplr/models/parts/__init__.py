"""A language model cut into bottom, trunk and top, each loaded by itself (docs/architecture.md)."""

from pplr.models.parts.cut import Cut, Which
from pplr.models.parts.load import Part, load_part

__all__ = ["Cut", "Part", "Which", "load_part"]
