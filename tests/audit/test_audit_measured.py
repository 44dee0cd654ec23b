"""The table that comes with the package."""

from __future__ import annotations

import json
from importlib import resources

from pplr.audit.measured import Recovery, best_recovery


def test_every_row_of_the_table_is_found_by_name_and_alias():
    table = json.loads(resources.files("pplr.audit").joinpath("measured.json").read_text(encoding="utf-8"))
    assert {"smollm2-135m", "minilm"} <= set(table)
    for model, rows in table.items():
        for bottom, values in rows.items():
            assert best_recovery(model, int(bottom)) == Recovery(**values)
            assert all(0 <= values[key] <= 1 for key in ("tokens", "titles", "rouge_l"))
    assert best_recovery("MiniLM", 0) == best_recovery("minilm", 0) is not None


def test_what_was_not_measured_is_not_made_up():
    assert best_recovery("minilm", 5) is None
    assert best_recovery("./my-model", 0) is None
