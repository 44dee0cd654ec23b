import subprocess
import sys

import pytest
import typer

from pplr.cli.app import app

COMMANDS = [
    ["demo"], ["init"], ["run"], ["evaluate"], ["recommend"], ["compare"], ["models", "list"], ["models", "pull"],
    ["models", "part"],
    ["data", "check"], ["doctor"], ["plan"], ["pki", "init"], ["pki", "issue"], ["pki", "revoke"], ["pki", "list"],
    ["audit", "hidden-states"], ["trunk", "serve"], ["trunk", "check"],
    ["coordinator", "run"], ["silo", "run"], ["silo", "check"],
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_teaches_with_examples_that_name_it(cli, command):
    done = cli(*command, "--help")
    assert done.exit_code == 0
    examples = done.stdout.partition("Examples:")[2]
    assert f"pplr {' '.join(command)}" in examples


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_eighty_columns(cli, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli(*command, "--help").stdout.splitlines()
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_argument_and_option_is_explained(cli, command):
    """No cell of help is empty: one version of click lost the help of arguments on its way through typer."""
    found = typer.main.get_command(app)
    for word in command:
        found = found.commands[word]
    shown = " ".join(cli(*command, "--help").stdout.replace("│", " ").split())
    for parameter in found.params:
        assert parameter.help, parameter.name
        assert parameter.help.replace("`", "").split(". ")[0][:30] in shown, parameter.name


def test_every_command_is_listed(cli):
    listed = cli("--help").stdout
    assert all(command[0] in listed for command in COMMANDS)


def test_no_argument_shows_the_help(cli):
    assert "First steps" in cli().output


def test_version(cli):
    from importlib.metadata import version

    assert cli("--version").stdout == f"pplr {version('pplr')}\n"


def test_help_loads_no_heavy_library():
    code = (
        "import sys\nfrom pplr.cli.app import app\n"
        "try:\n    app(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'polars', 'numpy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mistyped_command_gets_the_nearest_name(cli):
    done = cli("recomend")
    assert done.exit_code == 2
    assert "Did you mean 'recommend'?" in done.stderr
