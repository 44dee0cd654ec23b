"""What README and documentation say exists: commands, their options, configuration keys, Python names, links, and the flow."""

from __future__ import annotations

import ast
import csv
import re
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pplr
import tiny
from pplr.config import Config, load_config
from pplr.config_schema import Model, kinds_of
from pplr.models.hub.cache import model_folder

with warnings.catch_warnings():
    # typer 0.20 imports names that click 8.5 calls deprecated
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer
    from typer.testing import CliRunner

    from pplr.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "benchmarks.md")]
VARIANTS = {"pplr as published"}
"""Names of rows in tables of results, which are no commands."""


def written_by_hand(page: Path) -> str:
    """A page without what scripts write into it, between their marks."""
    return re.sub(r"(?s)<!-- ([\w-]+):start -->.*?<!-- \1:end -->", "", page.read_text(encoding="utf-8"))


TEXTS = {str(page.relative_to(ROOT)): written_by_hand(page) for page in PAGES}


def commands(text: str) -> list[str]:
    """Commands in indented blocks and in code spans."""
    blocks = re.findall(r"^    (pplr .+?)(?:  +#.*)?$", text, re.M)
    spans = re.findall(r"`(pplr [a-z].*?)`", text)
    return [command for command in (*blocks, *spans) if command not in VARIANTS]


def keys(model: Model, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        for inner in kinds_of(field).values():
            yield from keys(inner, f"{prefix}{name}.")


COMMANDS = sorted({(page, command) for page, text in TEXTS.items() for command in commands(text)})
KEYS = set(keys(Config))


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_exists_with_its_options(page, command):
    plain = re.sub(r"\s*\[PATH\]|\.\.\.", "", command).replace("[", "").replace("]", "").replace("\\|", "|")
    words = [word.partition("|")[0] for word in shlex.split(plain)[1:]]
    current: Any = typer.main.get_command(app)
    while words and hasattr(current, "commands"):  # a group may be named without one of its commands
        assert words[0] in current.commands, f"{page} names the command {words[0]}"
        current = current.commands[words.pop(0)]
    options = {option for parameter in current.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if re.match(r"--?[a-z]", word) and word not in options]
    assert not unknown, f"{page} gives `{command}` options that it does not have"


@pytest.mark.parametrize("page", TEXTS)
def test_every_configuration_key_exists(page):
    sections = "|".join(name for name, field in Config.model_fields.items() if kinds_of(field))
    found = re.findall(rf"(?<![\w./])((?:{sections})(?:\.[a-z_]+)+)(?=[` =\"\]])", TEXTS[page])
    wrong = [key for key in found if key not in KEYS and not key.endswith((".py", ".md", ".json"))]
    assert [key for key in wrong if key not in {"data.load"}] == []
    tables = re.findall(r"`\[([a-z.]+)\]", TEXTS[page])
    assert [name for name in tables if name not in KEYS] == []


@pytest.mark.parametrize("page", TEXTS)
def test_python_is_valid_and_names_what_there_is(page):
    for code in re.findall(r"```python\n(.*?)```", TEXTS[page], re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pplr":
                assert hasattr(pplr, node.attr), f"{page}: pplr.{node.attr}"


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXTS[page]):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def own_data_flow() -> list[str]:
    """The README's commands on own data, before it goes on to several machines."""
    return [command for command in commands(TEXTS["README.md"].partition("## Three machines")[0]) if "shop" in command]


def test_readme_and_quick_start_tell_the_same_flow():
    flow = own_data_flow()
    told = commands(TEXTS["docs/quickstart.md"])
    assert len(flow) == 6
    assert [command for command in told if command in flow] == flow


@pytest.mark.slow
def test_the_flow_works_word_for_word(tmp_path, monkeypatch):
    if not model_folder("minilm").is_dir():
        pytest.skip("minilm is not in the cache")
    data = tiny.dataset(users=80)
    with (tmp_path / "orders.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user, items in zip(data.user_ids, data.items, strict=True):
            rows.writerows((user, item, f"2024-03-{day + 1:02} 10:15") for day, item in enumerate(items.tolist()))
    with (tmp_path / "products.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "category"])
        titles = ["Red mug", "Blue plate", *(f"{title} {i}" for i, title in enumerate(data.catalogue.titles[2:]))]
        rows.writerows((item, title, "Kitchen") for item, title in enumerate(titles))
    monkeypatch.chdir(tmp_path)
    for command in own_data_flow():
        done = CliRunner().invoke(app, shlex.split(command)[1:], prog_name="pplr")
        assert done.exit_code == 0, (command, done.output)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["fedavg", "shop"]
    assert load_config(tmp_path / "runs" / "fedavg" / "config.toml").strategy.kind == "fedavg"
    (code,) = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.S)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "alone" / "report.html").is_file()


def test_the_page_about_the_wire_is_of_its_version():
    from pplr.trunk.frames import VERSION

    page = (ROOT / "docs" / "wire.md").read_text()
    assert f"speak, version {VERSION}." in page
    assert f'version of the wire, `"{VERSION}"`' in page
