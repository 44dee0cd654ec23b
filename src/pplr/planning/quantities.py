"""Sizes and speeds as people write them: "4GB", "512MiB", "100Mbit", "2TFLOPS"."""

from __future__ import annotations

import re

from pplr.errors import ConfigError

_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40}
_NUMBER = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]+)?)\s*([A-Za-z/]*)\s*")


def memory_bytes(text: str) -> int:
    """Return the bytes in "4GB", "512MiB" or "2000000000".

    Raises:
        ConfigError: it is no size.
    """
    number, unit = _split(text, "size of memory", "4GB, 512MiB or 16G")
    prefix = unit.removesuffix("b")
    factor = (_DECIMAL | _BINARY).get(prefix)
    if factor is None or number <= 0:
        raise _refused(text, "size of memory", "4GB, 512MiB or 16G")
    return int(number * factor)


def bits_per_second(text: str) -> float:
    """Return the bits a second in "100Mbit", "1Gbit/s", "54Mbps" or "12MB/s".

    Raises:
        ConfigError: it is no speed of a line.
    """
    what, examples = "bandwidth", "100Mbit, 1Gbit or 12MB/s"
    number, unit = _split(text, what, examples, keep_case=True)
    found = re.fullmatch(r"([kKmMgG]?)(?:(bit|bits|b)(?:/s|ps)?|(B|Byte|Bytes)(?:/s|ps))", unit)
    if found is None or number <= 0:
        raise _refused(text, what, examples)
    return number * _DECIMAL[found[1].lower()] * (8 if found[3] else 1)


def operations_per_second(text: str) -> float:
    """Return the floating-point operations a second in "150GFLOPS", "2TFLOP/s" or "2e12".

    Raises:
        ConfigError: it is no speed of a processor.
    """
    what, examples = "speed", "150GFLOPS, 2TFLOPS or 2e12"
    plain = re.fullmatch(r"[0-9]{1,30}(?:\.[0-9]+)?[eE]\+?[0-9]{1,2}", text.strip())
    number, unit = (float(text), "") if plain else _split(text, what, examples)
    factor = _DECIMAL.get(re.sub(r"flops?(/s)?$", "", unit))
    if factor is None or number <= 0:
        raise _refused(text, what, examples)
    return number * factor


def _split(text: str, what: str, examples: str, *, keep_case: bool = False) -> tuple[float, str]:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise _refused(text, what, examples)
    return float(found[1]), found[2] if keep_case else found[2].lower()


def _refused(text: str, what: str, examples: str) -> ConfigError:
    return ConfigError(f"'{text}' is no {what}. Write a number above zero and its unit, such as {examples}.")
