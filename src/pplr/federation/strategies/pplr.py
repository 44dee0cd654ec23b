"""Dynamic balance (Zhao et al., arXiv:2402.09959v2, section 3.2; docs/strategies.md)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from pplr.federation.strategies.base import (
    Aggregator,
    Cohort,
    Floats,
    LocalObjective,
    Mixing,
    SimilarityOf,
    Strategy,
)
from pplr.federation.strategies.item_sums import ItemSums, item_tables
from pplr.federation.strategies.product import ProductMean
from pplr.models.layout import Layout


class Pplr(Strategy):
    """Each client gets its own mix of all rows, by similarity, at a speed that depends on its loss.

        s_ci = (cos(x_c, x_i) + 1) / 2
        p_c  = softmax_c(L_c / tau)
        w_c  = tanh(alpha / p_c^(t / beta))
        d_cc = 1,  d_ci = w_c s_ci for i != c,  D = d with every row divided by its sum

    A client that finds its data hard learns from its own data first, and from the others more as the rounds go by.

    A client that did not train in a round gives nothing in it, and takes from those who did, at their mean speed (`absent`): what
    it has held since its last round would grow stale. Its own update is zero, so that by updates all others are equally
    similar. From newcomers that trained alone it takes nothing.

    A client that was away from the start holds the mean of the others. After its first round it gets the mix of the
    others by s_ci, and the others get nothing of it yet; from then on it is one of them.

    With similarity "parameters" and items "mean" the method is the paper's. By default updates are compared, and what is
    learned of items, where a backbone trains vectors of them, adds up (`ItemSums`). The options from `temperature` to `clip` are ours too, and change D
    as follows, in this order: s is
    raised to 1 / temperature, with the sum over the others kept; w is 1 without `speed`; every column i of d is multiplied
    by n_i where `by_size`; the diagonal of D is raised to `self_weight`, at the others' cost in proportion; with `clip`,
    D_ci becomes D_ci min(1, clip m_c / |x_i - x_c|) with m_c the median of c's distances to the others, and what is left
    goes to the diagonal: no single client can move another far, whatever it sends (ClippedGossip, He et al. 2022,
    arXiv:2202.01545; not with shared vectors of items that add up). With similarity "none", no speed, and by size, D is
    that of `fedavg` (but absent clients keep a part of their rows), and with items "mean" so is the strategy.
    """

    kind: Literal["pplr"] = "pplr"
    alpha: float = Field(
        0.7,
        ge=0,
        description="Learning speed from the others, 0 or more; 0, with items = 'mean', turns the strategy into `local`.",
    )
    beta: float = Field(
        5.0, gt=0, description="Time scale in rounds: the larger, the longer hard clients keep to themselves."
    )
    tau: float = Field(
        1.0, gt=0, description="Temperature of the shares of difficulty: 1 in the paper, 0.05 in its released code."
    )
    similarity: Literal["parameters", "updates", "none"] = Field(
        "updates",
        description="What is compared: the rows (parameters: the paper; close to 1 for all pairs, since all start equal), "
        "what this round changed in them (updates), or nothing (none: s is 1).",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="Below 1 the most similar clients get more of what a client takes from the others, above 1 all get "
        "more alike; 1 is the paper's.",
    )
    speed: bool = Field(True, description="Learning speeds by loss and round; false: w is 1 from the first round on.")
    by_size: bool = Field(False, description="Clients weigh by their numbers of training examples too.")
    self_weight: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Least weight of a client's own row in its mix; 0 sets no limit, 1, with items = 'mean', turns the strategy into "
        "`local`.",
    )
    clip: float | None = Field(
        None,
        gt=0,
        description="A client takes less from another whose row is further from its own than so many times the median "
        "of its distances: robust against false rows; absent: no limit.",
    )
    absent: Literal["take", "keep"] = Field(
        "take",
        description="A client that did not train in a round takes from those who did (take), or keeps its row until it trains "
        "again (keep).",
    )
    products: bool = Field(False, description="Mix the adapters' products, as `product` does, not their factors.")
    items: Literal["mean", "submodel", "sum", "rescaled"] = Field(
        "rescaled",
        description="Trained vectors of items (backbone.residual): each client trains those of its own items only, and what "
        "clients have learned of an item adds up and is stretched for items that few of them have (rescaled), adds up (sum), or is "
        "averaged over those who have it (submodel: FedSubAvg); or they are trained and mixed by D as everything else (mean: the "
        "paper).",
    )

    @property
    def similarity_of(self) -> SimilarityOf | None:
        """Return the setting `similarity`."""
        return None if self.similarity == "none" else self.similarity

    @property
    def needs_distances(self) -> bool:
        """Return whether distances are bounded."""
        return self.clip is not None

    @property
    def refactors(self) -> bool:
        """Return whether products are mixed."""
        return self.products

    @property
    def whole_rows(self) -> bool:
        """Return whether products are mixed."""
        return self.products

    @property
    def local_objective(self) -> LocalObjective:
        """Return whether clients train the vectors of their own items only."""
        return LocalObjective(own_items=self.items != "mean")

    def aggregator(self, layout: Layout, initial_row: Tensor) -> Aggregator | None:
        """Return what mixes products, or adds up over items, where the layout has them and the settings ask for it; else None.

        Raises:
            ConfigError: the layout shares no whole adapter, and products are to be mixed.
        """
        tables = [] if self.items == "mean" else item_tables(layout)
        products = ProductMean(layout, "strategy.products = true", apart=tables) if self.products else None
        return ItemSums(layout, self.items, products) if self.items != "mean" and tables else products

    def mixing(self, cohort: Cohort) -> Mixing:
        """Return D; an absent client gives nothing to the others."""
        if cohort.gram is None and self.similarity_of is not None:
            raise ValueError(f"The strategy pplr needs the Gram matrix of the clients' {self.similarity}.")
        giving = _giving(cohort)
        similarity = np.ones((len(giving),) * 2) if cohort.gram is None else similarities(cohort.gram)
        speed = np.zeros(len(giving))
        if self.speed:
            speed[giving] = learning_speeds(cohort.losses[giving], cohort.round, self.alpha, self.beta, self.tau)
        else:
            speed[giving] = float(self.alpha > 0)
        if self.absent == "take" and giving.any() and not _new(cohort)[giving].any():
            speed[~giving] = speed[giving].mean()
        matrix = speed[:, None] * similarity * giving[None, :]
        np.fill_diagonal(matrix, 1.0)
        if self.temperature != 1:
            matrix = sharpened(matrix, self.temperature)
        if self.by_size:
            matrix = matrix * np.where(cohort.sizes > 0, cohort.sizes, 1.0)
        matrix = at_least(matrix / matrix.sum(axis=1, keepdims=True), self.self_weight)
        if self.clip is not None and cohort.distances is not None:
            matrix = clipped(matrix, cohort.distances, giving, self.clip)
        if cohort.newcomers is not None and self.alpha > 0 and self.self_weight < 1:
            weights = np.where(cohort.present[:, None], similarity, 1.0)
            if self.clip is not None and cohort.distances is not None:
                weights = weights * near(cohort.distances, giving, self.clip)
            matrix = caught_up(matrix, weights, giving, cohort.newcomers)
        return Mixing(matrix, {"learning_speed": speed, "similarity": similarity})


def _new(cohort: Cohort) -> NDArray[np.bool_]:
    """Return [clients] who was away from the start, and has not trained in an earlier round."""
    return np.zeros_like(cohort.present) if cohort.newcomers is None else cohort.newcomers


def _giving(cohort: Cohort) -> NDArray[np.bool_]:
    """Return [clients] who gives to the others: those present but newcomers, unless there is nobody else."""
    established = cohort.present & ~_new(cohort)
    return established if established.any() else cohort.present


def caught_up(matrix: Floats, weights: Floats, giving: NDArray[np.bool_], newcomers: NDArray[np.bool_]) -> Floats:
    """Return D [clients, clients] in which newcomers get a mix of those who give, by `weights` [clients, clients]."""
    found = matrix.copy()
    for place in np.flatnonzero(newcomers):
        others = giving * weights[place]
        others[place] = 0.0
        if others.sum() > 0:
            found[place] = others / others.sum()
    return found


def near(distances: Floats, giving: NDArray[np.bool_], clip: float) -> Floats:
    """Return [clients] factors in [0, 1] for what clients give to newcomers, who have no row of their own to measure from.

    How far a client is, is the median of its distances to the others who give: 1 up to `clip` times the median of these, less
    beyond.
    """
    found = np.ones(len(giving))
    places = np.flatnonzero(giving)
    if len(places) > 2:
        between = distances[np.ix_(places, places)]
        typical = np.array([np.median(np.delete(row, place)) for place, row in enumerate(between)])
        reach = clip * np.median(typical)
        found[places] = np.where(typical <= reach, 1.0, reach / np.maximum(typical, 1e-30))
    return found


def clipped(matrix: Floats, distances: Floats, giving: NDArray[np.bool_], clip: float) -> Floats:
    """Return D [clients, clients] with what is taken from far away made smaller, for the diagonal's good."""
    found = matrix * (1 - np.eye(len(matrix)))
    for place in range(len(giving)):
        others = giving & (np.arange(len(giving)) != place)
        if others.any():
            reach = clip * np.median(distances[place, others])
            found[place] *= np.minimum(1.0, reach / np.maximum(distances[place], 1e-30))
    return np.asarray(found + np.diag(1.0 - found.sum(axis=1)), dtype=np.float64)


def similarities(gram: Floats) -> Floats:
    """Return s [clients, clients] in [0, 1] from inner products; a vector of length zero is at right angles to all."""
    norms = np.sqrt(np.clip(np.diag(gram), 0, None))
    products = np.outer(norms, norms)
    cosines = np.divide(gram, products, out=np.zeros_like(gram), where=products > 0)
    return np.asarray((np.clip(cosines, -1, 1) + 1) / 2, dtype=np.float64)


def sharpened(weights: Floats, temperature: float) -> Floats:
    """Return `weights` [clients, clients] with those off the diagonal raised to 1 / temperature, their sums per row kept.

    Worked out in logarithms, so that no power underflows; zeros stay zeros.
    """
    others = weights * (1 - np.eye(len(weights)))
    with np.errstate(divide="ignore"):
        scaled = np.log(others) / temperature
    largest = scaled.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.exp(scaled - np.where(np.isfinite(largest), largest, 0.0))
    sums = powers.sum(axis=1, keepdims=True)
    shares = np.divide(powers, sums, out=np.zeros_like(powers), where=sums > 0)
    return np.asarray(shares * others.sum(axis=1, keepdims=True) + np.diag(np.diag(weights)), dtype=np.float64)


def at_least(matrix: Floats, own: float) -> Floats:
    """Return D [clients, clients] with a diagonal of `own` at least; what the others give up is in proportion."""
    diagonal = np.diag(matrix)
    low = diagonal < own
    rest = np.divide(1 - own, 1 - diagonal, out=np.ones_like(diagonal), where=low)
    raised = matrix * rest[:, None]
    np.fill_diagonal(raised, np.where(low, own, diagonal))
    return raised


def learning_speeds(losses: Floats, round_number: int, alpha: float, beta: float, tau: float) -> Floats:
    """Return w [clients] in [0, 1]: tanh(alpha / p^(t / beta)), p the softmax of losses / tau.

    Worked out in logarithms: p^(t / beta) itself underflows for many clients or late rounds.
    """
    if alpha == 0 or losses.size == 0:
        return np.zeros_like(losses)
    scaled = losses / tau
    shifted = scaled - scaled.max()
    log_shares = shifted - np.log(np.exp(shifted).sum())
    exponent = np.log(alpha) - (round_number / beta) * log_shares
    return np.asarray(np.tanh(np.exp(np.minimum(exponent, 50.0))), dtype=np.float64)
