import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pplr.errors import ModelError
from pplr.models.hub.digest import weights_digest


def tensors():
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal((4, 3)).astype(np.float32) for name in ("a", "b", "c")}


def digest(path, weights, **options):
    save_file(weights, path, **options)
    return weights_digest([path])


def test_it_does_not_depend_on_order_shards_or_comments(tmp_path):
    weights = tensors()
    whole = digest(tmp_path / "whole", weights)
    assert digest(tmp_path / "comment", weights, metadata={"made by": "another version"}) == whole
    assert digest(tmp_path / "reversed", dict(reversed(weights.items()))) == whole
    save_file({"b": weights["b"]}, tmp_path / "one")
    save_file({"a": weights["a"], "c": weights["c"]}, tmp_path / "two")
    assert weights_digest([tmp_path / "one", tmp_path / "two"]) == whole
    assert weights_digest([tmp_path / "two", tmp_path / "one"]) == whole


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from("abc"), row=st.integers(0, 3), column=st.integers(0, 2), bit=st.integers(0, 31))
def test_every_bit_counts(tmp_path, name, row, column, bit):
    weights = tensors()
    before = digest(tmp_path / "before", weights)
    weights[name].view(np.uint32)[row, column] ^= np.uint32(1 << bit)
    assert digest(tmp_path / "after", weights) != before


def test_names_shapes_and_types_count(tmp_path):
    weights = tensors()
    seen = {digest(tmp_path / "x", weights)}
    seen.add(digest(tmp_path / "x", {"a": weights["b"], "b": weights["a"], "c": weights["c"]}))
    seen.add(digest(tmp_path / "x", weights | {"a": weights["a"].reshape(3, 4)}))
    seen.add(digest(tmp_path / "x", weights | {"a": weights["a"].view(np.int32)}))
    seen.add(digest(tmp_path / "x", {name: weights[name] for name in "ab"}))
    assert len(seen) == 5


@pytest.mark.parametrize("kept", [0, 5, 40, 250, -1])
def test_a_cut_file_is_refused(tmp_path, kept):
    path = tmp_path / "cut.safetensors"
    save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"cut\.safetensors is not a whole safetensors file"):
        weights_digest([path])


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "pickle"
    path.write_bytes(b"\x80\x05" + bytes(5000))
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        weights_digest([path])
