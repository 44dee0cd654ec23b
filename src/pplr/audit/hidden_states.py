"""The audit of hidden states: how much of the histories can be read from what arrives at the trunk's server."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pplr.audit.answer import Answer, title_recovery, titles_of, token_recovery
from pplr.audit.attacks import ATTACKS
from pplr.audit.catalogue import CatalogueReader
from pplr.audit.observed import Observed
from pplr.audit.popularity import NAME as POPULARITY
from pplr.audit.popularity import popular_answer
from pplr.audit.rouge import rouge_l
from pplr.audit.sample import Sample
from pplr.audit.texts import HistoryText, Writing

EXAMPLES = 3
"""Histories that are kept to be shown."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Estimate:
    """A mean over histories.

    Attributes:
        value: the mean.
        error: its standard error.
    """

    value: float
    error: float


@dataclass(frozen=True)
class Figures:
    """What one attack recovered of held-out histories, as means over them.

    Attributes:
        attack: its name.
        catalogue: whether what it read was matched to lists of the catalogue's items.
        tokens: share of the titles' tokens that were named, in their places.
        titles: share of the titles that were recovered exactly.
        rouge_l: ROUGE-L of the recovered titles and the true ones.
    """

    attack: str
    catalogue: bool
    tokens: Estimate
    titles: Estimate
    rouge_l: Estimate

    @property
    def name(self) -> str:
        """The attack and its last step."""
        return f"{self.attack} + catalogue" if self.catalogue and self.attack != POPULARITY else self.attack


@dataclass(frozen=True)
class Example:
    """A held-out history beside what was read.

    Attributes:
        true: its titles.
        recovered: per attack (`Figures.name`), the titles that it says are there.
    """

    true: list[str]
    recovered: dict[str, list[str]]


@dataclass(frozen=True)
class Outcome:
    """What all attacks recovered.

    Attributes:
        figures: popularity first, then each attack as it read, and matched to the catalogue.
        examples: some histories.
    """

    figures: list[Figures]
    examples: list[Example]

    @property
    def popularity(self) -> Figures:
        """The attacker without states."""
        return self.figures[0]

    @property
    def best(self) -> Figures:
        """The attack that recovered the most titles, and of several the most tokens."""
        return max(self.figures[1:], key=lambda f: (f.titles.value, f.tokens.value, f.rouge_l.value))

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        figures = [{"name": figures.name, **asdict(figures)} for figures in self.figures]
        return {"best": self.best.name, "figures": figures, "examples": [asdict(example) for example in self.examples]}


def run_attacks(
    sample: Sample,
    writing: Writing,
    titles: Sequence[str],
    held: Observed,
    public: Observed,
    *,
    decode: Callable[[list[int]], str],
    seed: int,
    tell: Tell,
) -> Outcome:
    """Return what all attacks recover.

    Args:
        sample: the texts; of those that are attacked only what was measured in `held` reaches an attack.
        writing: how texts are written.
        titles: of all items.
        held: what arrives of the texts that are attacked.
        public: what would arrive of the public texts.
        decode: turns token ids into text.
        seed: of whatever attacks draw.
        tell: receives a sentence at each step.
    """
    judge = _Judge(sample.held, titles, decode)
    answers = [popular_answer(writing, sample.popularity, length) for length in held.lengths]
    judge.hear(POPULARITY, answers, catalogue=True)
    tokens = sample.public_tokens
    for attack in ATTACKS:
        tell(f"The attack '{attack.name}' learns from {len(tokens):,} states of public text.")
        reader = attack().fit(public, tokens, seed)
        catalogue = CatalogueReader(writing, reader.tokens, sample.popularity)
        tell(f"The attack '{attack.name}' reads {len(sample.held):,} histories.")
        read, matched = [], []
        for text in held.each():
            scores = reader.scores(text)
            read.append(Answer(reader.likeliest(scores).tolist()))
            matched.append(catalogue.answer(scores, read[-1].ids))
        judge.hear(attack.name, read, catalogue=False)
        judge.hear(attack.name, matched, catalogue=True)
    return Outcome(judge.figures, judge.examples())


class _Judge:
    """Compares answers with the truth."""

    def __init__(self, texts: list[HistoryText], titles: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self.figures: list[Figures] = []
        self._texts, self._titles, self._decode = texts, titles, decode
        self._shown: dict[str, list[list[str]]] = {}

    def hear(self, attack: str, answers: list[Answer], *, catalogue: bool) -> None:
        """Measure an attack's answers, one per text."""
        pairs = list(zip(self._texts, answers, strict=True))
        said = [self._said(text, answer) for text, answer in pairs]
        true = [titles_of(text, self._titles) for text in self._texts]
        figures = Figures(
            attack,
            catalogue,
            tokens=estimate([token_recovery(text, answer) for text, answer in pairs]),
            titles=estimate([title_recovery(text, answer, self._titles) for text, answer in pairs]),
            rouge_l=estimate([rouge_l("\n".join(t), "\n".join(s)) for t, s in zip(true, said, strict=True)]),
        )
        self.figures.append(figures)
        self._shown[figures.name] = said[:EXAMPLES]

    def examples(self) -> list[Example]:
        """Return the first texts with all answers."""
        return [
            Example(titles_of(text, self._titles), {name: said[i] for name, said in self._shown.items()})
            for i, text in enumerate(self._texts[:EXAMPLES])
        ]

    def _said(self, text: HistoryText, answer: Answer) -> list[str]:
        """Return the titles in an answer: those of its items, or its tokens where the true titles stand."""
        if answer.items is not None:
            return [self._titles[item] for item in answer.items]
        return [self._decode(answer.ids[place.start : place.stop]) for place in text.titles]


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and standard error of two or more independent values."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Estimate(mean, math.sqrt(variance / len(values)))
