import pytest
from hypothesis import given
from hypothesis import strategies as st

from pplr.errors import ConfigError
from pplr.planning.quantities import bits_per_second, memory_bytes, operations_per_second


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4e9),
        ("512MiB", 512 * 2**20),
        ("16G", 16e9),
        ("1.5 GiB", 1.5 * 2**30),
        ("2000000000", 2e9),
        ("64kb", 64e3),
    ],
)
def test_memory(text, size):
    assert memory_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "bits"),
    [("100Mbit", 1e8), ("1Gbit/s", 1e9), ("54Mbps", 54e6), ("12MB/s", 96e6), ("2.5 Gbit", 2.5e9), ("9600bit", 9600)],
)
def test_bandwidth(text, bits):
    assert bits_per_second(text) == bits


@pytest.mark.parametrize(
    ("text", "speed"), [("150GFLOPS", 150e9), ("2TFLOP/s", 2e12), ("2e12", 2e12), ("500gflop", 5e11)]
)
def test_speed(text, speed):
    assert operations_per_second(text) == speed


@pytest.mark.parametrize("parse", [memory_bytes, bits_per_second, operations_per_second])
@pytest.mark.parametrize("text", ["", "much", "4 elephants", "-1GB", "0GB", "GB", "1e999", "4GB4", "١GB"])
def test_what_is_no_quantity_is_named(parse, text):
    with pytest.raises(ConfigError, match="Write a number above zero"):
        parse(text)


@given(st.text(max_size=12))
def test_anything_is_a_number_or_an_error(text):
    for parse in (memory_bytes, bits_per_second, operations_per_second):
        try:
            assert 0 < parse(text) < float("inf")
        except ConfigError as problem:
            assert text in str(problem)
