"""Prompt templates: data, read by training and inference alike."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pplr.data.dataset import Ints
from pplr.errors import ConfigError, nearest

DEFAULT = "chosen-titles"


@dataclass(frozen=True)
class PromptTemplate:
    """How a history becomes a prompt.

    Attributes:
        prompt: text with `{history}` once; the answer follows it directly.
        item: text of one item, with `{title}`.
        separator: text between items.
    """

    prompt: str
    item: str
    separator: str

    def __post_init__(self) -> None:
        """Refuse a template in which the history or the title has no place."""
        problems = []
        if self.prompt.count("{history}") != 1:
            problems.append("The prompt template's `prompt` must contain {history} exactly once.")
        if self.item.count("{title}") != 1:
            problems.append("The prompt template's `item` must contain {title} exactly once.")
        if problems:
            raise ConfigError(problems)


def shipped_templates() -> list[str]:
    """Return the names of the templates that come with the program."""
    folder = resources.files(__name__)
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_template(name: str, base: Path | None = None) -> PromptTemplate:
    """Return a shipped template by name, or one from a TOML file (ending in `.toml`, relative to `base`)."""
    if name.endswith(".toml"):
        path = (base or Path()) / name
        if not path.is_file():
            raise ConfigError(
                f"The prompt template {path} does not exist. Name a file, or one of {shipped_templates()}."
            )
        text = path.read_text(encoding="utf-8")
    elif name in shipped_templates():
        text = resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    else:
        known = shipped_templates()
        raise ConfigError(f"There is no prompt template {name!r}.{nearest(name, known)} Choose from {known}.")
    try:
        values = tomllib.loads(text)
        if wrong := [key for key, value in values.items() if not isinstance(value, str)]:
            raise TypeError(f"{wrong[0]} is no text")  # noqa: TRY301
        return PromptTemplate(**values)
    except (tomllib.TOMLDecodeError, TypeError) as problem:
        raise ConfigError(
            f"The prompt template {name} cannot be read: {problem}. It needs the texts `prompt`, `item` and `separator`."
        ) from problem


class PromptBuilder:
    """Token ids of prompts, made from pre-tokenised pieces so that truncation never touches the prompt's frame.

    Where a prompt would be too long the oldest titles are left out, whole; a single title is cut to `title_tokens`.

    Attributes:
        before: what every prompt begins with.
        titles: per item, its title as the template's `item` writes it.
        separator: what stands between titles.
        after: what every prompt ends with.
        room: tokens that titles and separators may take together.
        most: no prompt has more tokens than this.
    """

    def __init__(
        self, template: PromptTemplate, tokenizer: Any, titles: list[str], *, items: int, tokens: int, title_tokens: int
    ) -> None:
        before, after = template.prompt.split("{history}")
        self._bos = [tokenizer.bos_token_id] if _adds_bos(tokenizer) else []
        self.before = [*self._bos, *_ids(tokenizer, before)]
        self.after = _ids(tokenizer, after)
        self.separator = _ids(tokenizer, template.separator)
        left, right = template.item.split("{title}")
        self.titles = [
            [*_ids(tokenizer, left), *ids[:title_tokens], *_ids(tokenizer, right)] for ids in _batch(tokenizer, titles)
        ]
        self._items = items
        self.room = tokens - len(self.before) - len(self.after)
        longest = max((len(ids) for ids in self.titles), default=0)
        if self.room < longest:
            frame = len(self.before) + len(self.after)
            raise ConfigError(
                f"prompt_tokens = {tokens} leaves no room for a title: the template takes {frame} tokens and the "
                f"longest title {longest}. Set prompt_tokens to at least {frame + longest}, or title_tokens lower."
            )
        listed = items * longest + (items - 1) * len(self.separator)
        self.most = tokens - self.room + min(self.room, listed)

    def prompt(self, history: Ints) -> list[int]:
        """Return the token ids of the prompt for the newest items of `history` that fit."""
        kept: list[list[int]] = []
        room = self.room
        for item in history[::-1][: self._items]:
            title = self.titles[item]
            need = len(title) + (len(self.separator) if kept else 0)
            if need > room:
                break
            kept.append(title)
            room -= need
        ids = list(self.before)
        for position, title in enumerate(reversed(kept)):
            if position:
                ids += self.separator
            ids += title
        return ids + self.after


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _batch(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []


def _adds_bos(tokenizer: Any) -> bool:
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    special = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and special != plain and special[:1] == [tokenizer.bos_token_id]
