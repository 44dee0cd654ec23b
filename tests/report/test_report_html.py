"""The page as text: whole, closed to the network and to markup from the data, and readable when parts are missing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from pplr.errors import RunError
from pplr.report import write_report
from pplr.report.folder import read_metrics

SECTIONS = ["clients", "rounds", "mixing", "examples", "cost", "data", "configuration"]
EVIL = "</script><script>window.taken = true</script><img src=x onerror='window.taken = true'>"


class Page(HTMLParser):
    """What a browser would make of the page: elements with attributes, scripts, and the text that is shown."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.open, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts[-1] += data
        elif self.open[-1:] != ["style"]:
            self.text += re.sub(r"\s+", " ", data)

    def identifiers(self):
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]


@pytest.fixture
def page(build_run):
    def make(**settings):
        path = write_report(build_run(**settings))
        assert path.name == "report.html"
        return Page(path.read_text(encoding="utf-8"))

    return make


def test_a_strategy_without_a_matrix_says_so(page):
    found = page(strategy="robust", rounds=2)
    assert "The strategy robust combines the rows number by number" in found.text
    assert "plot-heat" not in found.identifiers()


def test_the_page_is_whole(page):
    found = page()
    assert [name for name in found.identifiers() if name in SECTIONS] == SECTIONS
    assert len(found.identifiers()) == len(set(found.identifiers()))
    assert "Dynamic balance (pplr) over 5 clients reaches NDCG@10" in found.text
    assert "One run with one seed" in found.text
    assert "Split 'leave-one-out': 59,389 training" in found.text
    assert 'kind = "pplr"' in found.text
    assert "3 min 20 s" in found.text


def test_nothing_is_loaded_from_anywhere(page):
    found = page()
    for tag, attributes in found.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base"}
        assert not {"src", "srcset", "action"} & set(attributes), (tag, attributes)
        assert attributes.get("href", "#").startswith("#")


def test_only_the_scripts_of_this_package_are_allowed_to_run(page):
    found = page()
    policy = next(a["content"] for tag, a in found.elements if tag == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy
    payload, *scripts = found.scripts
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert re.search(r"script-src ([^;]*);", policy)[1].split() == [f"'sha256-{value}'" for value in hashes]
    assert set(json.loads(payload)) == {"quality", "main", "curves", "heat"}


def test_markup_in_the_data_stays_text(page, build_run):
    clean = page(folder="clean", clients=2)
    names = [f"<b>north</b>{EVIL}", "south & east"]
    dirty = page(folder="dirty", client_names=names, name=f"run {EVIL}", titles=[f"{i}{EVIL}" for i in range(15)])
    assert len(dirty.scripts) == 3
    assert [tag for tag, _ in dirty.elements if tag == "script"] == [
        tag for tag, _ in clean.elements if tag == "script"
    ]
    assert not [tag for tag, _ in dirty.elements if tag in {"img", "b"} and tag not in {t for t, _ in clean.elements}]
    assert not [a for _, a in dirty.elements if any(name.startswith("on") for name in a)]
    assert EVIL in dirty.text
    heat = json.loads(dirty.scripts[0])["heat"]
    assert heat["clients"][0].startswith("&lt;b&gt;north")  # plotly reads some HTML in labels


def test_figures_of_the_tables_are_those_of_the_run(page, build_run):
    found = page(folder="a")
    metrics = read_metrics(build_run(folder="b"))
    for client in metrics.clients.values():
        assert f"{client.figure('ndcg@10'):.4f}" in found.text
        assert f"{client.figure('recall@50'):.4f}" in found.text
    for baseline in metrics.baselines.values():
        assert f"{baseline.overall.figure('ndcg@10'):.4f}" in found.text


def test_a_hit_is_marked_and_counted(page):
    found = page(clients=3, examples=2)
    assert sum(tag == "mark" for tag, _ in found.elements) == 3  # the made-up run hits for every other example
    assert "In 3 of 6 examples something that the user truly chose" in found.text


@pytest.mark.parametrize(
    ("settings", "sentences"),
    [
        ({"rounds": 0}, ["This run recorded no rounds, so there are no curves", "so nothing was mixed"]),
        ({"examples": 0}, ["This run kept no examples"]),
        ({"strategy": "centralised"}, ["Pooled data (centralised)", "One client, everyone, trained on all data"]),
        ({"clients": 1}, ["over 1 client reaches", "so there is nothing to balance", "One client, client-0, trained"]),
        ({"baselines": False}, ["No baselines were measured in this run"]),
        ({"strategy": "fedavg"}, ["The strategy fedavg has no learning speed"]),
        ({"change": {"stopped": None}}, ["Each client keeps the row that was best"]),
        (
            {"change": {"overall": {"users": 0}, "baselines": {}, "balance": {}}},
            ["no user had held-out events", "Nothing was measured on test users"],
        ),
        ({"clients": 400, "users": 300, "rounds": 2, "examples": 0}, ["of 400 clients are too large for this page"]),
    ],
)
def test_what_is_missing_becomes_a_sentence(page, settings, sentences):
    text = page(**settings).text
    for sentence in sentences:
        assert sentence in text


def test_a_run_without_config_file(build_run):
    folder = build_run()
    (folder / "config.toml").unlink()
    assert "The folder holds no config.toml" in write_report(folder).read_text()


def test_nothing_is_written_for_a_damaged_run(build_run):
    folder = build_run()
    (folder / "metrics.json").write_text("{")
    with pytest.raises(RunError):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_texts_of_a_generative_model_are_shown(build_run):
    folder = build_run()
    examples = json.loads((folder / "examples.json").read_text())
    examples[0]["written"] = ["A Title Nobody Filmed (2014)"]
    (folder / "examples.json").write_text(json.dumps(examples))
    found = Page(write_report(folder).read_text())
    assert "Written by the model" in found.text
    assert "A Title Nobody Filmed (2014)" in found.text
