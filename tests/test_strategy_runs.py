"""Strategies by configuration, from files to the report: what is kept, measured and told."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import pplr
from pplr.errors import ConfigError
from pplr.federation.strategies import STRATEGIES
from pplr.runner import evaluate_run
from whole_runs import assert_same_result, configuration, run_interrupted

SMALL = {"federation": {"rounds": 2}, "evaluation": {"max_users": 5, "baselines": False}}
NEW = [kind for kind in STRATEGIES if kind not in {"pplr", "fedavg", "local", "centralised"}]


def settings(kind):
    return ("generative" if kind in {"ffa", "product"} else "sequence"), {"strategy": {"kind": kind}, **SMALL}


@pytest.mark.parametrize("kind", NEW)
def test_a_run_is_measured_again_resumed_and_reported(files, tmp_path, kind):
    backbone, sections = settings(kind)
    if backbone == "generative":
        sections["training"] = {"epochs": 1, "batch_tokens": 3000, "max_examples": 30}
    config = configuration(files, backbone, **sections)
    metrics = pplr.run(config, tmp_path / "straight").metrics
    again = evaluate_run(tmp_path / "straight")
    assert (again["overall"], again["clients"]) == (metrics["overall"], metrics["clients"])
    assert all((record["mixing"] is None) == (kind == "robust") for record in metrics["rounds"])
    assert kind in (tmp_path / "straight" / "report.html").read_text(encoding="utf-8")
    run_interrupted(config, tmp_path / "broken")
    pplr.run(config, tmp_path / "broken", resume=True)
    assert_same_result(tmp_path / "broken", tmp_path / "straight")


def test_frozen_factors_travel_never_and_are_exported_as_they_were_drawn(files, tmp_path):
    training = {"epochs": 1, "batch_tokens": 3000, "max_examples": 30}
    found = {}
    for kind in ("ffa", "fedavg"):
        config = configuration(files, "generative", strategy={"kind": kind}, training=training, **SMALL)
        metrics = pplr.run(config, tmp_path / kind).metrics
        adapters = [
            load_file(path) for path in sorted((tmp_path / kind / "adapters").glob("*/adapter_model.safetensors"))
        ]
        found[kind] = metrics["cost"]["bytes_up"], adapters
    assert found["ffa"][0] < 0.7 * found["fedavg"][0]
    names = [name for name in found["ffa"][1][0] if "lora_A" in name]
    assert names
    for name in names:
        frozen = [adapter[name] for adapter in found["ffa"][1]]
        assert all(torch.equal(one, frozen[0]) for one in frozen)
        assert not torch.equal(frozen[0], found["fedavg"][1][0][name])


@pytest.mark.parametrize("strategy", [{"kind": "ffa"}, {"kind": "product"}, {"kind": "pplr", "products": True}])
def test_without_adapters_nothing_is_begun(files, tmp_path, strategy):
    with pytest.raises(ConfigError, match=r"Set backbone\.adapters = true"):
        pplr.run(configuration(files, strategy=strategy, **SMALL), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_products_and_frozen_factors_run_with_adapters_of_the_sequence_backbone(files, tmp_path):
    for kind in ("product", "ffa"):
        config = configuration(files, strategy={"kind": kind}, **SMALL)
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"adapters": True})})
        metrics = pplr.run(config, tmp_path / kind).metrics
        assert json.loads((tmp_path / kind / "metrics.json").read_text())["overall"] == metrics["overall"]
