"""metrics.json, schema 1: the documented, versioned result of a run.

What is written is validated by these models, and so is what is read back. A key that nobody documented is an error. A
figure that could not be measured (a client without test users) is null, never absent and never NaN: pydantic writes
NaN as null, which is how it is read again.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from pplr.federation.history import RoundRecord
from pplr.wording import MODEL_ALONE

SCHEMA_VERSION = 1
"""The version that this program writes and reads."""

METRIC_KEY = re.compile(r"[a-z][a-z_]*@[1-9][0-9]*")
"""A ranking metric at a list length, such as "ndcg@10"."""


def _null_for_nan(value: float | None) -> float | None:
    if value is not None and math.isinf(value):
        raise ValueError("a figure must be finite, or null where it was not measured")
    return None if value is None or math.isnan(value) else value


def _null_for_infinite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


Figure = Annotated[float | None, AfterValidator(_null_for_nan)]
"""A measured number; null where there was nothing to measure."""

Ratio = Annotated[float | None, AfterValidator(_null_for_infinite)]
"""A quotient; null where it has no value."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class Settings(_Part):
    """Settings of one kind of thing, as resolved for this run."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)

    kind: str = Field(description="Which kind it is, such as 'pplr' or 'sequence'; the other keys depend on it.")


class Measures(_Part):
    """Test figures of one group of users: keys such as "recall@10" and "ndcg@10" beside the documented ones."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "patternProperties": {
                f"^{METRIC_KEY.pattern}$": {
                    "anyOf": [{"type": "number"}, {"type": "null"}],
                    "description": "Mean over the users of a ranking metric at a list length; null without users.",
                }
            },
            "additionalProperties": False,
        },
    )
    __pydantic_extra__: dict[str, Figure] = Field(init=False)

    users: int | None = Field(None, ge=0, description="Test users that the figures are means of.")
    loss: Figure = Field(None, description="Negative log-likelihood per target token, in nats; null if not measured.")

    @model_validator(mode="after")
    def _only_metrics(self) -> Measures:
        if unknown := [key for key in self.figures if not METRIC_KEY.fullmatch(key)]:
            raise ValueError(f"'{unknown[0]}' is no metric; metrics are named like 'ndcg@10'")
        return self

    @property
    def figures(self) -> dict[str, float | None]:
        """Return the ranking metrics: key -> mean over the users, None where nobody was measured."""
        return dict(self.__pydantic_extra__ or {})

    def figure(self, key: str) -> float | None:
        """Return the metric `key`, or the loss for "loss"; None where it was not measured."""
        return self.loss if key == "loss" else self.figures.get(key)


class OverallMeasures(Measures):
    """Test figures over all users, each counting the same."""

    users: int = Field(ge=0, description="Test users of all clients together.")


class FusionRecord(_Part):
    """How a client mixes its model with the statistics that it counts on its own data."""

    weights: dict[str, float] = Field(
        description="'model' and the statistics -> weight, 'new_items' -> log-odds added for items that nobody has chosen as "
        "far as is known (absent where the model cannot tell), learned on validation users."
    )
    validation: dict[str, Figure] = Field(
        description="NDCG@10 of 'model_alone' and 'mixed' on validation 'users', the latter with weights learned on others."
    )

    @property
    def mixes(self) -> bool:
        """Return whether a statistic counts."""
        return any(weight > 0 for name, weight in self.weights.items() if name not in {"model", "new_items"})


class ClientMeasures(Measures):
    """Test figures of one client, measured with the row that was best on its validation data."""

    users: int = Field(ge=0, description="Test users of this client.")
    examples: int = Field(ge=0, description="n_c: training examples of this client.")
    fusion: FusionRecord | None = Field(
        None,
        description="How the client mixes its model with statistics of its own data; null where it has none, or "
        "is a silo elsewhere, which does not tell.",
    )


class BalanceMeasures(_Part):
    """How evenly one measure is spread over the clients that have a value, each client counting the same."""

    mean: Figure = Field(description="Mean over clients (the overall figure is a mean over users).")
    std: Figure = Field(description="Population standard deviation over clients.")
    variation: Ratio = Field(description="Coefficient of variation, std / |mean|; null where the mean is 0.")
    worst: Figure = Field(description="Value of the worst client: the lowest, or the highest loss.")
    best: Figure = Field(description="Value of the best client.")
    gap: Figure = Field(description="|best - worst|.")
    jain: Ratio = Field(description="Jain index: 1 where all are equal, 1 / clients where one has everything.")
    worst_client: str = Field(description="Name of the worst client, the first of several.")
    best_client: str = Field(description="Name of the best client, the first of several.")
    clients: int = Field(ge=1, description="Clients with a value.")


class Baseline(_Part):
    """A recommender beside the run, asked the same test queries."""

    overall: Measures = Field(description="Over all test users.")
    clients: dict[str, Measures] = Field(description="Client name -> the recommender on that client's test users.")
    balance: dict[str, BalanceMeasures] = Field(default={}, description="Metric key -> its spread over the clients.")


class ModelRecord(_Part):
    """The pretrained model that the run started from."""

    name: str = Field(description="As in the configuration: a known name, a hub id, or a folder.")
    digest: str | None = Field(None, description="SHA-256 that identifies its weights.")


class DataRecord(_Part):
    """What the run was measured on, after cleaning."""

    users: int = Field(ge=0, description="Users of all clients.")
    items: int = Field(ge=0, description="Items of the catalogue, all of which are ranked.")
    events: int = Field(ge=0, description="Events of all parts.")
    test_users: int = Field(ge=0, description="Users with test events and a history.")
    split: str | Settings = Field(description="How training, validation and test were cut.")
    notes: list[str] = Field(default=[], description="What was done to the data or seen in it, in sentences.")


class Stopped(_Part):
    """When and why training ended."""

    round: int = Field(ge=0, description="The last round.")
    best_round: int = Field(ge=0, description="The round with the best validation score over all clients.")
    reason: Literal["rounds", "patience"] = Field(
        description="'rounds': all rounds were done; 'patience': the score had not improved for too long."
    )


class FrameCount(_Part):
    """Frames of one kind, as this process has sent or received them."""

    frames: int = Field(ge=0, description="How many.")
    bytes: int = Field(ge=0, description="Their bytes, without those of TLS and HTTP/2 around them.")


class Cost(_Part):
    """What the run took."""

    seconds: dict[str, float] = Field(
        description="Wall time by phase: data, model, train, aggregate, validate, test, baselines, total."
    )
    peak_memory_bytes: int | None = Field(None, ge=0, description="Largest resident memory of the process.")
    bytes_up: int = Field(ge=0, description="What a network would have carried to the coordinator, all rounds.")
    bytes_down: int = Field(ge=0, description="What it would have carried to the clients, all rounds.")
    wire: dict[str, dict[str, FrameCount]] | None = Field(
        None,
        description="Frames between clients and the model's server by direction (up: to the server, down: from it) and "
        "kind; null where there is no such server.",
    )
    parameters: int = Field(ge=0, description="P: trained parameters of one client.")
    shared_parameters: int = Field(ge=0, description="Those of them that are mixed; the others stay with the client.")


class Metrics(_Part):
    """The result of a finished run: the content of metrics.json."""

    schema_version: Literal[1] = Field(alias="schema", description="Version of this document; 1.")
    name: str = Field(description="Name of the run.")
    created: datetime = Field(description="When the results were measured, ISO 8601.")
    seed: int = Field(ge=0, description="All randomness of the run came from it.")
    strategy: Settings = Field(description="The strategy, resolved: kind and its parameters.")
    backbone: Settings = Field(description="The backbone, resolved: kind and its settings.")
    model: ModelRecord = Field(description="The pretrained model.")
    data: DataRecord = Field(description="The data.")
    overall: OverallMeasures = Field(description="Test figures over all users.")
    clients: dict[str, ClientMeasures] = Field(min_length=1, description="Test figures by client.")
    balance: dict[str, BalanceMeasures] = Field(description="Metric key, or 'loss' -> its spread over the clients.")
    model_alone: Baseline | None = Field(
        None,
        description="The run's models without the statistics that clients add to them; null where none adds any.",
    )
    baselines: dict[str, Baseline] = Field(
        default={}, description="Simple recommenders beside the run, fitted on all clients' training events, by name."
    )
    rounds: list[RoundRecord] = Field(default=[], description="The finished rounds, in order.")
    stopped: Stopped | None = Field(None, description="When and why training ended; null without rounds.")
    cost: Cost = Field(description="Time, memory and traffic.")
    versions: dict[str, str] = Field(description="Name -> version of pplr, python, torch and transformers.")
    device: str = Field(description="Where it was computed, such as 'cpu' or 'cuda:0'.")
    threads: int | None = Field(None, ge=1, description="CPU threads.")

    @field_validator("rounds")
    @classmethod
    def _in_order(cls, rounds: list[RoundRecord]) -> list[RoundRecord]:
        if [record.round for record in rounds] != list(range(1, len(rounds) + 1)):
            raise ValueError("the rounds must be numbered 1, 2, ... without gaps")
        return rounds

    @model_validator(mode="after")
    def _same_clients(self) -> Metrics:
        for name, baseline in self.beside.items():
            if unknown := set(baseline.clients) - set(self.clients):
                raise ValueError(f"the baseline '{name}' has a client '{min(unknown)}' that the run does not have")
        return self

    @property
    def beside(self) -> dict[str, Baseline]:
        """Return all that stands beside the run in tables and plots: its models alone, where they differ, and baselines."""
        return self.baselines if self.model_alone is None else {MODEL_ALONE: self.model_alone, **self.baselines}


def metrics_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of metrics.json, with a description of every field, for the documentation."""
    return Metrics.model_json_schema(by_alias=True, mode="serialization")
