from pathlib import Path

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from pplr.data import (
    CleaningSettings,
    ClientSettings,
    ColumnClients,
    ColumnNames,
    DataSettings,
    DirichletClients,
    GlobalTime,
    KMeansClients,
    LeaveOneOut,
    RandomClients,
    resolve_paths,
)

MODELS = (
    CleaningSettings,
    ColumnClients,
    ColumnNames,
    DataSettings,
    DirichletClients,
    GlobalTime,
    KMeansClients,
    LeaveOneOut,
    RandomClients,
)


@pytest.mark.parametrize("model", MODELS)
def test_every_field_says_what_it_means(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith((".", ")", "'")) or ":" in field.description, name


@pytest.mark.parametrize("model", MODELS)
def test_unknown_keys_and_changes_are_refused(model: type[BaseModel]) -> None:
    assert model.model_config["extra"] == "forbid"
    assert model.model_config["frozen"] is True


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "data.events and data.items must name a file"),
        ({"events": "e.csv"}, "data.items must name a file"),
        ({"demo": "movietweetings", "items": "i.csv"}, "data.demo and data.items exclude each other"),
        ({"demo": "netflix"}, "movietweetings"),
        ({"demo": "movietweetings", "split": {"kind": "by-luck"}}, "leave-one-out"),
        ({"demo": "movietweetings", "split": {"kind": "global-time", "ratio": [8, 0, 2]}}, "greater than 0"),
        ({"demo": "movietweetings", "cleaning": {"title_length": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DataSettings.model_validate(given)


def test_relative_paths_start_at_the_configuration_file(tmp_path: Path) -> None:
    settings = DataSettings(events=Path("shop/events.csv"), items=tmp_path / "elsewhere" / "items.csv")
    resolved = resolve_paths(settings, tmp_path)
    assert resolved.events == tmp_path / "shop" / "events.csv"
    assert resolved.items == tmp_path / "elsewhere" / "items.csv"
    assert settings.events == Path("shop/events.csv")
    demo = DataSettings(demo="movietweetings")
    assert resolve_paths(demo, tmp_path) == demo


def test_clients_are_chosen_by_kind() -> None:
    adapter: TypeAdapter[ClientSettings] = TypeAdapter(ClientSettings)
    assert adapter.validate_python({"kind": "kmeans"}) == KMeansClients(count=5)
    assert adapter.validate_python({"kind": "dirichlet", "attribute": "genres"}) == DirichletClients(attribute="genres")
    with pytest.raises(ValidationError, match="'kmeans', 'column', 'dirichlet', 'random'"):
        adapter.validate_python({"kind": "k-means"})
