"""What a client counts on its own data: of its own events alone, trusted as far as validation says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from pydantic import ValidationError

import pplr
from pplr.data.dataset import Catalogue, Dataset, Part, Queries, Ragged
from pplr.errors import NumericalError
from pplr.evaluation import evaluate, fit_baselines, top_items
from pplr.evaluation.ranking import mask_histories
from pplr.fusion import MODEL, NEW, FusedScorer, Fusion, FusionSettings
from pplr.models.backbone import CatalogueScorer
from whole_runs import configuration, copied

ITEMS = 20
EVERY = FusionSettings(statistics=("popularity", "recent", "transitions", "item_knn", "item_knn_recency"))


def cycles(users: int = 80, length: int = 9, chosen: int = ITEMS) -> Dataset:
    """Every user walks through the first `chosen` items in their order, from a place of their own: transitions know all of it."""
    rows = Ragged.from_rows([(np.arange(length) + 3 * user) % chosen for user in range(users)])
    parts = np.tile(np.r_[np.full(length - 2, Part.TRAIN), Part.VALIDATION, Part.TEST], users).astype(np.int8)
    names = tuple(f"i{item}" for item in range(ITEMS))
    times = np.tile(np.arange(length) * 10, users)
    return Dataset(Catalogue(names, names), tuple(f"u{user}" for user in range(users)), rows, parts, times)


class Model(CatalogueScorer):
    """Scores by a function of a query's last item."""

    def __init__(self, rows: torch.Tensor, nothing: float = -np.inf, new_items: torch.Tensor | None = None) -> None:
        self.rows, self.nothing, self.new_items = rows, nothing, new_items

    def scores(self, queries: Queries, wanted: int = 0) -> torch.Tensor:
        return self.rows[torch.tensor([int(history[-1]) for history in queries.histories], dtype=torch.long)]


def noise(seed: int = 0) -> Model:
    return Model(torch.randn(ITEMS, ITEMS, generator=torch.Generator().manual_seed(seed)))


def knowing() -> Model:
    """A model that knows what comes next, as sure as counting can be."""
    return Model(30 * torch.eye(ITEMS).roll(1, dims=1))


def users_of(dataset: Dataset) -> np.ndarray:
    return np.arange(len(dataset.items))


def test_scores_are_the_written_formula():
    dataset = cycles()
    statistics = fit_baselines(dataset, names=["transitions", "popularity"])
    weights = {MODEL: 0.7, "transitions": 1.3, "popularity": 0.0}
    queries = dataset.queries(Part.TEST).select(np.arange(5))
    found = FusedScorer(noise(), statistics, weights).scores(queries)
    counted = statistics["transitions"].scores(queries).numpy()
    model = noise().scores(queries).double().numpy()
    for row in range(5):
        log_p = model[row] - np.log(np.exp(model[row]).sum())
        expected = 0.7 * log_p + 1.3 * np.log(1 + ITEMS * counted[row] / counted[row].sum())
        assert found[row].numpy() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def releases(share: float) -> tuple[Dataset, Model]:
    """A part of the validation and test targets are the items 15 to 19, which nobody has in training; and a model that tells so.

    The model knows nothing of any item; what the others are worth, transitions know.
    """
    dataset = cycles(users=200, chosen=15)
    codes = dataset.items.values.copy()
    held_out = np.flatnonzero(dataset.parts != Part.TRAIN)
    rng = np.random.default_rng(8)
    new = held_out[rng.random(len(held_out)) < share]
    codes[new] = rng.integers(15, ITEMS, len(new))
    return replace(dataset, items=Ragged(codes, dataset.items.offsets)), Model(
        torch.zeros(ITEMS, ITEMS), new_items=torch.arange(ITEMS) >= 15
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_validation_says_what_items_are_worth_that_nobody_has_chosen(share):
    """With a model that tells them they get the share of the mix that they have of validation targets; else counts hide them."""
    dataset, model = releases(share)
    fusion = Fusion(FusionSettings(statistics=("transitions",)), dataset, users_of(dataset))
    validation, test = dataset.queries(Part.VALIDATION), dataset.queries(Part.TEST)
    learned = fusion.learn(model, validation)
    assert set(learned.weights) == {MODEL, "transitions", NEW}
    fused = fusion.fused(model, learned.weights)
    targets = np.fromiter((int(row[0]) for row in validation.targets), np.int64)
    possible = mask_histories(fused.scores(validation), validation.histories)
    believed = possible.softmax(dim=1)[:, 15:].sum(dim=1).mean()
    assert float(believed) == pytest.approx((targets >= 15).mean(), abs=0.03)
    blind = Model(model.rows)
    hiding = fusion.fused(blind, fusion.learn(blind, validation).weights)
    shown, hidden = (evaluate(each, test, ITEMS, (10,)).overall()["ndcg@10"] for each in (fused, hiding))
    assert shown > hidden + 0.1 * share - 1e-6


def test_what_a_client_has_chosen_itself_is_not_new_to_it():
    """A model may tell so, which was trained on other examples: but its counts know these items."""
    dataset, model = releases(0.3)
    model.new_items = torch.arange(ITEMS) >= 10
    fusion = Fusion(FusionSettings(statistics=("transitions",)), dataset, users_of(dataset))
    validation = dataset.queries(Part.VALIDATION)
    weights = fusion.learn(model, validation).weights
    with_bonus = fusion.fused(model, {**weights, NEW: 1.0}).scores(validation)
    gained = with_bonus - fusion.fused(model, {**weights, NEW: 0.0}).scores(validation)
    assert torch.allclose(gained, (torch.arange(ITEMS) >= 15).float().expand_as(gained), atol=1e-5)
    model.new_items = torch.arange(ITEMS) < 15
    assert set(fusion.learn(model, validation).weights) == {MODEL, "transitions"}, "none of them is new"


def test_new_items_add_to_the_formula_where_they_are_told():
    dataset, model = releases(0.3)
    statistics = fit_baselines(dataset, names=["transitions"])
    queries = dataset.queries(Part.TEST).select(np.arange(5))
    weights = {MODEL: 0.7, "transitions": 1.3}
    before = FusedScorer(model, statistics, weights).scores(queries)
    new = torch.arange(ITEMS) >= 15
    after = FusedScorer(model, statistics, {**weights, NEW: -0.4}, new_items=new).scores(queries)
    assert torch.allclose(after - before, -0.4 * new.float(), atol=1e-6)
    alone = FusedScorer(model, statistics, {MODEL: 1.0, "transitions": 0.0, NEW: 2.0}, new_items=new).scores(queries)
    assert (alone[:, 15:] - alone[:, :15].amax() == pytest.approx(2.0)) and alone[0, 0] == alone[0, 14]


def test_a_statistic_that_has_seen_nothing_says_nothing():
    nobody = cycles().of(np.array([], dtype=np.int64))
    queries = cycles().queries(Part.TEST)
    statistics = fit_baselines(nobody, names=["transitions"])
    found = FusedScorer(noise(), statistics, {MODEL: 1.0, "transitions": 5.0}).scores(queries)
    assert torch.equal(found, torch.log_softmax(noise().scores(queries), dim=1))


def test_what_neither_model_nor_statistics_know_is_not_recommended():
    dataset = cycles()
    beams = torch.zeros(ITEMS, ITEMS)
    beams[:, 7] = 2.0  # a search that found one item, whatever the history
    queries = dataset.queries(Part.TEST).select(np.arange(4))
    model = Model(beams, nothing=0.0)
    fused = FusedScorer(model, fit_baselines(dataset, names=["transitions"]), {MODEL: 1.0, "transitions": 1.0})
    best = top_items(fused.scores(queries), None, ITEMS, fused.nothing)
    for row, history in enumerate(queries.histories):
        known = {7, *((int(i) + step) % ITEMS for i in history for step in (1, 2, 3))}
        shown = set(best[row].tolist()) - {-1}
        assert {7} < shown <= known


class Searching(CatalogueScorer):
    """A search that finds two items after the last one, or as many as are wanted; the first found score highest."""

    nothing = 0.0

    def scores(self, queries: Queries, wanted: int = 0) -> torch.Tensor:
        width = max(2, wanted)
        found = torch.zeros(len(queries), ITEMS)
        for row, history in enumerate(queries.histories):
            for place in range(min(width, ITEMS)):
                found[row, (int(history[-1]) + 5 + place) % ITEMS] = width - place
        return found


def test_the_mix_does_not_depend_on_how_many_are_wanted():
    dataset = cycles()
    queries = dataset.queries(Part.TEST).select(np.arange(4))
    fused = FusedScorer(Searching(), fit_baselines(dataset, names=["transitions"]), {MODEL: 1.0, "transitions": 0.3})
    lists = {k: top_items(fused.scores(queries, wanted=k), queries.histories, k, fused.nothing) for k in (1, 3, 10)}
    measured = top_items(fused.scores(queries), queries.histories, 3, fused.nothing)
    for k in (1, 3):
        assert torch.equal(lists[10][:, :k], lists[k])
        assert torch.equal(measured[:, :k], lists[k])
    assert (lists[10] >= 0).all(), "a wider search fills the end"


def test_counting_is_trusted_where_the_model_knows_nothing_and_left_out_where_it_knows_all():
    dataset = cycles()
    fusion = Fusion(FusionSettings(statistics=("transitions", "popularity")), dataset, users_of(dataset))
    validation, test = dataset.queries(Part.VALIDATION), dataset.queries(Part.TEST)
    learned = fusion.learn(noise(), validation)
    weights = learned.weights
    assert weights["transitions"] > 5 * weights[MODEL]
    assert learned.alone == pytest.approx(evaluate(noise(), validation, ITEMS, (10,)).overall()["ndcg@10"])
    assert learned.mixed > 0.9
    alone, fused = (
        evaluate(scorer, test, ITEMS, (10,)).overall()["ndcg@10"]
        for scorer in (noise(), fusion.fused(noise(), weights))
    )
    assert fused > 0.9 > 0.6 > alone
    assert fusion.learn(knowing(), validation).weights == {MODEL: 1.0, "transitions": 0.0, "popularity": 0.0}


@pytest.mark.parametrize("asked", [10, 33, 80, 500])
def test_weights_are_learned_from_as_many_users_as_are_asked_spread_over_all(asked):
    dataset = cycles()
    seen: list[list[int]] = []

    class Watched(Model):
        def scores(self, queries, wanted=0):
            seen.append(queries.users.tolist())
            return super().scores(queries, wanted)

    fusion = Fusion(FusionSettings(statistics=("transitions",), users=asked), dataset, users_of(dataset))
    learned = fusion.learn(Watched(noise().rows), dataset.queries(Part.VALIDATION))
    users = [user for part in seen for user in part]
    assert learned.users == len(users) == len(set(users)) == min(asked, 80)
    assert (users[0], users[-1]) == (0, 79), "from the first to the last"
    assert max(np.diff(users)) - min(np.diff(users)) <= 1


def test_a_model_alone_scores_as_if_there_were_no_fusion():
    dataset = cycles()
    close = Model(torch.full((ITEMS, ITEMS), 1e4) + torch.arange(ITEMS) * 1e-3)
    fused = FusedScorer(close, fit_baselines(dataset, names=["transitions"]), {MODEL: 1.0, "transitions": 0.0})
    queries = dataset.queries(Part.TEST)
    assert torch.equal(fused.scores(queries), close.scores(queries)), "no rounding, that makes ties"


def test_a_statistic_that_misleads_is_given_no_weight():
    dataset = cycles()
    spoilt = replace(
        dataset, parts=dataset.parts.copy(), items=Ragged(dataset.items.values.copy(), dataset.items.offsets)
    )
    training = spoilt.parts == Part.TRAIN
    spoilt.items.values[training] = np.random.default_rng(3).integers(0, ITEMS, int(training.sum()))
    fusion = Fusion(FusionSettings(statistics=("transitions",)), spoilt, users_of(spoilt))
    model = Model(3 * torch.eye(ITEMS).roll(1, dims=1))
    weights = fusion.learn(model, dataset.queries(Part.VALIDATION)).weights
    assert weights["transitions"] < 0.05 * weights[MODEL]


def test_nothing_of_others_and_nothing_held_out_is_counted():
    dataset, mine = cycles(), np.arange(0, 80, 2)
    others = np.repeat(np.arange(80) % 2 == 1, 9)
    test = dataset.parts == Part.TEST
    changed = dataset.items.values.copy()
    changed[others | test] = (changed[others | test] + 7) % ITEMS
    queries = dataset.queries(Part.VALIDATION)
    queries = queries.select(np.flatnonzero(np.isin(queries.users, mine)))
    one = Fusion(EVERY, dataset, mine)
    other = Fusion(EVERY, replace(dataset, items=Ragged(changed, dataset.items.offsets)), mine)
    weights = one.learn(noise(), queries).weights
    assert set(weights) == {MODEL, *EVERY.statistics}
    assert weights == other.learn(noise(), queries).weights
    assert torch.equal(one.fused(noise(), weights).scores(queries), other.fused(noise(), weights).scores(queries))


def test_a_query_without_a_time_is_asked_after_the_last_event():
    dataset = cycles()
    fusion = Fusion(FusionSettings(statistics=("recent",)), dataset, users_of(dataset))
    fused = fusion.fused(noise(), {MODEL: 0.0, "recent": 1.0})
    queries = dataset.queries(Part.TEST)
    later = replace(queries, times=np.full(len(queries), 10**9))
    assert torch.equal(fused.scores(replace(queries, times=None)), fused.scores(later))
    assert fused.scores(queries).std() > 0


def test_a_client_without_validation_users_keeps_its_model_alone():
    dataset = cycles()
    fusion = Fusion(EVERY, dataset, users_of(dataset))
    for count in (0, 1):
        weights = fusion.learn(noise(), dataset.queries(Part.VALIDATION).select(np.arange(count))).weights
        assert weights == {MODEL: 1.0, **dict.fromkeys(EVERY.statistics, 0.0)}


def test_recent_popularity_without_times_is_left_out_and_said(files, tmp_path):
    own = copied(files, tmp_path / "files")
    events = pl.read_csv(own / "events.csv").drop("time").with_columns(position=pl.int_range(pl.len()).over("user"))
    events.write_csv(own / "events.csv")
    settings = configuration(own, fusion={"statistics": ["recent", "popularity"]}, federation={"rounds": 1})
    metrics = pplr.run(settings, tmp_path / "run").metrics
    assert any("'recent' of fusion.statistics is left out" in note for note in metrics["data"]["notes"])
    assert set(metrics["clients"]["shop-0"]["fusion"]["weights"]) == {MODEL, "popularity"}


def test_a_statistic_twice_is_refused():
    with pytest.raises(ValidationError, match="name each once"):
        FusionSettings(statistics=("transitions", "transitions"))


def test_a_score_that_is_no_number_is_the_models():
    dataset = cycles()
    fusion = Fusion(FusionSettings(statistics=("transitions",)), dataset, users_of(dataset))
    with pytest.raises(NumericalError, match="Model returned"):
        fusion.learn(Model(torch.full((ITEMS, ITEMS), torch.nan)), dataset.queries(Part.VALIDATION))
