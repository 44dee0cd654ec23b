"""From the name of a model to the audit of the states behind its first layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from pplr.audit.hidden_states import Outcome, Tell, run_attacks
from pplr.audit.observed import behind, observed
from pplr.audit.sample import Sample, draw
from pplr.audit.texts import Writing, encoder_writing, generative_writing
from pplr.data.dataset import Catalogue, Dataset
from pplr.errors import ConfigError
from pplr.models.encoder import EncoderSettings
from pplr.models.generative import GenerativeSettings
from pplr.models.hub import Kind, ModelFiles, load_tokenizer
from pplr.models.hub.parts import load_parts
from pplr.models.hub.quiet import quiet
from pplr.models.parts import Cut, Which
from pplr.models.parts.passing import PartModel
from pplr.models.settings import BackboneSettings
from pplr.trunk.codecs import codec


@dataclass(frozen=True)
class AuditSettings:
    """Settings of the audit.

    Attributes:
        bottom: k, layers behind the embedding that stay with the client.
        histories: held-out histories that are attacked.
        public: histories of other users that attacks learn from.
        codec: how states travel.
        seed: of all draws.
    """

    bottom: int
    histories: int = 300
    public: int = 700
    codec: str = "float32"
    seed: int = 1


@dataclass(frozen=True)
class HiddenStatesReport:
    """What `pplr audit hidden-states` found.

    Attributes:
        model: the model's name.
        layers: of the whole model.
        settings: of the audit.
        public_texts: texts that attacks learned from.
        public_tokens: tokens in their lists.
        outcome: what was recovered.
    """

    model: str
    layers: int
    settings: AuditSettings
    public_texts: int
    public_tokens: int
    outcome: Outcome

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        counts = {"public_texts": self.public_texts, "public_tokens": self.public_tokens}
        head = {"model": self.model, "layers": self.layers}
        return {**head, **asdict(self.settings), **counts, **self.outcome.as_json()}


class Auditor:
    """A model, how its backbone writes histories, and a sample of them."""

    def __init__(
        self, files: ModelFiles, dataset: Dataset, backbone: BackboneSettings | None, settings: AuditSettings
    ) -> None:
        """Write the texts.

        Args:
            files: of a decoder, which is audited as the generative backbone uses it, or of an encoder.
            dataset: all interactions.
            backbone: how histories are written, where it is of that kind; else the backbone's defaults.
            settings: of the audit; `bottom` does not matter yet.
        """
        self.files = files
        self.layers = layers_of(files)
        self.titles = dataset.catalogue.titles
        self.tokenizer: Any = load_tokenizer(files)
        self.writing = writing_of(files.kind, dataset.catalogue, self.tokenizer, backbone)
        self.sample: Sample = draw(dataset, self.writing, settings.histories, settings.public, settings.seed)

    @property
    def ids(self) -> list[torch.Tensor]:
        """Token ids of the texts that are attacked, then of the public ones."""
        return [torch.tensor(text.ids) for text in [*self.sample.held, *self.sample.public]]

    def report(self, states: list[torch.Tensor], settings: AuditSettings, tell: Tell) -> HiddenStatesReport:
        """Return what attacks recover from states [length, width] of the texts in `ids`, behind the bottom."""
        held, texts, way = len(self.sample.held), self.sample, codec(settings.codec)
        outcome = run_attacks(
            texts,
            self.writing,
            self.titles,
            observed(states[:held], texts.held, way),
            observed(states[held:], texts.public, way),
            decode=self.tokenizer.decode,
            seed=settings.seed,
            tell=tell,
        )
        tokens = len(texts.public_tokens)
        return HiddenStatesReport(self.files.name, self.layers, settings, len(texts.public), tokens, outcome)


def audit_hidden_states(
    files: ModelFiles, dataset: Dataset, backbone: BackboneSettings | None, settings: AuditSettings, tell: Tell
) -> HiddenStatesReport:
    """Run all attacks on the states behind the first layers of a model (see `Auditor`).

    Raises:
        ConfigError: `bottom` leaves nothing for the server, or the codec is unknown.
        DataError: too few users have a history.
        ModelError: the model cannot be cut.
    """
    codec(settings.codec)
    check_bottom(files, settings.bottom)
    auditor = Auditor(files, dataset, backbone, settings)
    (bottom,) = load_parts(files, Cut(settings.bottom), Which.BOTTOM)
    tell(
        f"{files.name} reads {len(auditor.sample.held):,} held-out texts and {len(auditor.sample.public):,} public ones "
        f"through {settings.bottom} of its {auditor.layers} layers."
    )
    return auditor.report(behind(PartModel(bottom), auditor.ids), settings, tell)


def writing_of(kind: Kind, catalogue: Catalogue, tokenizer: Any, backbone: BackboneSettings | None) -> Writing:
    """Return how the backbone of that kind of model writes histories, with its own settings where they are given."""
    if kind is Kind.DECODER:
        decoder = backbone if isinstance(backbone, GenerativeSettings) else GenerativeSettings()
        return generative_writing(decoder, catalogue, tokenizer)
    encoder = backbone if isinstance(backbone, EncoderSettings) else EncoderSettings()
    return encoder_writing(encoder, catalogue, tokenizer)


def check_bottom(files: ModelFiles, bottom: int) -> None:
    """Raise ConfigError where a trunk has no layer between `bottom` layers and one at the top."""
    most = layers_of(files) - 2
    if not 0 <= bottom <= most:
        advice = f"Give 0 to {most}." if most >= 0 else "Choose a model with more layers."
        raise ConfigError(
            f"--k {bottom} cannot be: of the {most + 2} layers of '{files.name}' at least one is the server's, and one the "
            f"client's top. {advice}"
        )


def layers_of(files: ModelFiles) -> int:
    """Return the number of a model's layers."""
    from transformers import AutoConfig

    with quiet():
        config = AutoConfig.from_pretrained(files.path, local_files_only=True, trust_remote_code=False)
    return int(config.get_text_config().num_hidden_layers)
