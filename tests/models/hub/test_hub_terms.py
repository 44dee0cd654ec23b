"""Whoever pulls a model on special terms is told them, however quiet the pull shall be."""

from __future__ import annotations

import dataclasses
import warnings

import pytest

from pplr.models.hub import pull, registry

with warnings.catch_warnings():
    # typer 0.20 imports names that click 8.5 calls deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner

    from pplr.cli.app import app

TERMS = "Toys are provided under the Toy Terms of Use."


@pytest.fixture
def toy_on_terms(toy, empty_cache, monkeypatch):
    """Return the known model `toy`, which has terms, before it is pulled."""
    entry = dataclasses.replace(toy, terms=TERMS)
    monkeypatch.setattr(registry, "KNOWN", (entry,))
    return entry


@pytest.mark.parametrize("options", [["--quiet"], []])
def test_the_command_shows_the_terms_once(toy_on_terms, shelf, empty_cache, options):
    done = CliRunner().invoke(app, ["models", "pull", "toy", "--from", str(shelf), *options], prog_name="pplr")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{empty_cache / 'models' / 'toy'}\n", "programs read the path alone"
    assert done.stderr.count(TERMS) == 1
    assert (done.stderr == f"{TERMS}\n") is bool(options), "--quiet leaves out all else"


def test_terms_are_told_before_anything_is_fetched_and_apart_from_progress(toy_on_terms, shelf):
    told = []
    pull(
        "toy",
        source=shelf,
        progress=lambda text: told.append(("progress", text)),
        terms=lambda text: told.append(("terms", text)),
    )
    assert told[0] == ("terms", TERMS)
    assert len(told) > 1
    assert all(kind == "progress" and text != TERMS for kind, text in told[1:])


def test_a_model_without_terms_has_none_to_tell(toy, shelf, empty_cache):
    told = []
    pull("toy", source=shelf, terms=told.append)
    assert told == []
