"""Ranking, metrics, balance, bootstrap and simple baselines: how good a recommender is, and for whom."""

from __future__ import annotations

from pplr.evaluation.balance import Balance, balance, balances, per_client
from pplr.evaluation.baselines import BASELINES, REFERENCES, fit_baselines
from pplr.evaluation.bootstrap import Difference, bootstrap_difference, compare, mean_over_users, worst_client
from pplr.evaluation.evaluate import UserMetrics, evaluate, together
from pplr.evaluation.metrics import DEFAULT_KS, METRICS, measure, metric_key
from pplr.evaluation.ranking import Ranks, rank_targets, top_items
from pplr.evaluation.scorer import Scorer
from pplr.evaluation.seeds import compare_over_seeds

__all__ = [
    "BASELINES",
    "DEFAULT_KS",
    "METRICS",
    "REFERENCES",
    "Balance",
    "Difference",
    "Ranks",
    "Scorer",
    "UserMetrics",
    "balance",
    "balances",
    "bootstrap_difference",
    "compare",
    "compare_over_seeds",
    "evaluate",
    "fit_baselines",
    "mean_over_users",
    "measure",
    "metric_key",
    "per_client",
    "rank_targets",
    "together",
    "top_items",
    "worst_client",
]
