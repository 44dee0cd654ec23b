"""Audits: what parties of a federation can find out about each other, measured by attacks (docs/audit.md)."""
