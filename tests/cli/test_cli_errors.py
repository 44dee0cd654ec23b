import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pplr import errors
from pplr.cli import doctor
from pplr.cli.app import app


def pplr(*words):
    return subprocess.run(
        [sys.executable, "-m", "pplr", *map(str, words)], check=False, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def failing(monkeypatch, cli):
    """Make the command `doctor` raise what is given."""

    def run(problem):
        def command():
            raise problem

        for registered in app.registered_commands:
            if registered.callback is doctor.doctor:
                monkeypatch.setattr(registered, "callback", command)
        return cli("doctor")

    return run


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 3),
        (errors.ModelError, 4),
        (errors.ModelUnavailable, 4),
        (errors.RunError, 5),
        (errors.CheckpointError, 5),
        (errors.NumericalError, 6),
        (errors.StorageError, 7),
    ],
)
def test_every_error_ends_in_its_sentence_and_exit_code(failing, problem, code):
    done = failing(problem("The thing [red] is wrong. Use another."))
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr == "Error: The thing [red] is wrong. Use another.\n"


def test_several_problems_are_listed(failing):
    done = failing(errors.ConfigError(["One is wrong.", "Two is wrong."]))
    assert done.stderr.splitlines() == ["Error: 2 things are wrong.", "- One is wrong.", "- Two is wrong."]


def test_an_unexpected_exception_stays_what_it_is(failing):
    done = failing(ZeroDivisionError("a fault of the program"))
    assert isinstance(done.exception, ZeroDivisionError)
    assert done.exit_code == 1


def test_interrupts_are_quiet(failing):
    done = failing(KeyboardInterrupt())
    assert (done.exit_code, done.stderr) == (130, "Interrupted.\n")


def test_a_mistake_in_a_real_process_has_no_traceback(tmp_path):
    done = pplr("run", tmp_path / "absent.toml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    # a pipe gets one line per sentence, however long
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"Error: The configuration {tmp_path / 'absent.toml'} does not exist")


def test_a_reader_that_goes_away_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "pplr", "models", "list", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    process.wait(timeout=300)
    assert process.stderr.read() == b""
    process.stderr.close()


def test_interrupting_a_run_says_how_to_go_on(workplace):
    config, out = workplace / "shop.toml", workplace / "inter rupted"
    words = ["run", config, "--set", "federation.rounds=100000", "--set", "federation.patience=100000", "--out", out]
    process = subprocess.Popen(
        [sys.executable, "-m", "pplr", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not list(out.glob("checkpoints/round-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(2)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        f"Interrupted. Go on with: pplr run {config} --set federation.rounds=100000 "
        f"--set federation.patience=100000 --out '{out}' --resume"
    )


def test_json_of_a_real_process_parses():
    done = pplr("models", "list", "--json")
    assert done.returncode == 0
    assert "minilm" in [model["name"] for model in json.loads(done.stdout)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_disk_behind_the_output_loses_no_training(workplace, stream):
    out = workplace / f"full {stream}"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pplr", "run", workplace / "shop.toml", "--out", out],
            check=False, timeout=300, text=True,
            **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: full}),
        )  # fmt: skip
    assert (out / "report.html").is_file()
    if stream == "stdout":
        assert done.returncode == 7
        assert "The output cannot be written: No space left on device." in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert done.returncode == 0
        assert "Worst client" in done.stdout


def test_training_goes_on_when_nobody_reads_its_progress(workplace):
    out = workplace / "unread"
    process = subprocess.Popen(
        [sys.executable, "-m", "pplr", "run", workplace / "shop.toml", "--out", out],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stderr.close()
    assert b"Worst client" in process.stdout.read()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert (out / "report.html").is_file()


def test_interrupting_before_training_says_that_nothing_was_lost(workplace):
    process = subprocess.Popen(
        [sys.executable, "-m", "pplr", "run", workplace / "shop.toml", "--out", workplace / "early"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stderr.readline()  # the program is up, and has read the data
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    assert stdout == ""
    assert "Interrupted" in stderr
    assert "Traceback" not in stderr


TURNED = """
import os, signal, sys
import pplr.cli.app
from pplr.cli import main

def command(prog_name):
    try:
        if sys.argv[1] == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        {turned}

pplr.cli.app.app = command
main()
"""


@pytest.mark.parametrize("turned", ["raise ImportError('numpy cannot be imported')", "sys.exit(1)"])
def test_an_interrupt_that_a_library_turns_into_an_error_of_its_own_is_an_interrupt(turned):
    def ended(word):
        words = [sys.executable, "-c", TURNED.format(turned=turned), word]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stderr

    assert ended("interrupted") == (130, "Interrupted.\n")
    code, said = ended("left alone")
    assert code == 1
    assert "Interrupted" not in said
    assert ("numpy cannot be imported" in said) == turned.startswith("raise"), "a mistake of ours stays visible"
