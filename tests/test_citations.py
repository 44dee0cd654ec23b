"""What the docstrings of the source refer a reader to lies in the repository."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = re.compile(r"[\w./-]+\.md\b|\b[A-Z]{4,}(?= \")")
"""A page, or the name of a document before a quoted heading."""


def docstrings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value


def test_citations_are_found_in_a_text():
    assert PAGE.findall('See docs/data.md, NOTES.md and GUIDE "Setting".') == ["docs/data.md", "NOTES.md", "GUIDE"]
    assert PAGE.findall('"NDCG at 10", NDCG and LoRA "as is"') == []


def test_every_page_that_the_source_cites_is_in_the_repository():
    pages = [
        (path.relative_to(ROOT), page)
        for path in sorted((ROOT / "src").rglob("*.py"))
        for text in docstrings(path)
        for page in PAGE.findall(text)
    ]
    assert pages
    assert [(str(path), page) for path, page in pages if not (ROOT / page).is_file()] == []
