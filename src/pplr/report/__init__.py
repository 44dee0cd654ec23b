"""Run folder in, tables and one HTML file out."""

from __future__ import annotations

from pplr.report.html import write_report

__all__ = ["write_report"]
