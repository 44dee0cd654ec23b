"""From the name of a model to the audit of the states behind its first layers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pplr.audit.client import AdaptedClient
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
        client: whose adapters were in the bottom that was attacked; None where there were none.
        settings: of the audit.
        public_texts: texts that attacks learned from.
        public_tokens: tokens in their lists.
        outcome: what was recovered.
    """

    model: str
    layers: int
    client: str | None
    settings: AuditSettings
    public_texts: int
    public_tokens: int
    outcome: Outcome

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        counts = {"public_texts": self.public_texts, "public_tokens": self.public_tokens}
        head = {"model": self.model, "layers": self.layers, "client": self.client}
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
    def held_ids(self) -> list[Tensor]:
        """Token ids of the texts that are attacked."""
        return [torch.tensor(text.ids) for text in self.sample.held]

    @property
    def public_ids(self) -> list[Tensor]:
        """Token ids of the public texts."""
        return [torch.tensor(text.ids) for text in self.sample.public]

    def report(
        self,
        held: list[Tensor],
        public: list[Tensor],
        settings: AuditSettings,
        tell: Tell,
        client: AdaptedClient | None = None,
    ) -> HiddenStatesReport:
        """Return what attacks recover.

        Args:
            held: states [length, width] behind the bottom, of each text in `held_ids`.
            public: the same of the texts in `public_ids`, behind the pretrained bottom.
            settings: of the audit.
            tell: receives a sentence at each step.
            client: whose adapters were in the bottom behind which `held` stands.
        """
        texts, way = self.sample, codec(settings.codec)
        outcome = run_attacks(
            texts,
            self.writing,
            self.titles,
            observed(held, texts.held, way),
            observed(public, texts.public, way),
            decode=self.tokenizer.decode,
            seed=settings.seed,
            tell=tell,
        )
        return HiddenStatesReport(
            self.files.name,
            self.layers,
            None if client is None else client.name,
            settings,
            len(texts.public),
            len(texts.public_tokens),
            outcome,
        )


def audit_hidden_states(
    files: ModelFiles,
    dataset: Dataset,
    backbone: BackboneSettings | None,
    settings: AuditSettings,
    tell: Tell,
    client: AdaptedClient | None = None,
) -> HiddenStatesReport:
    """Run all attacks on the states behind the first layers of a model (see `Auditor`).

    With a `client` its adapters are in the bottom that is attacked. The attacker does not know them, and learns from the
    pretrained model.

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
    pretrained = PartModel(bottom)
    public = behind(pretrained, auditor.public_ids)
    attacked = auditor.held_ids
    held = behind(pretrained, attacked) if client is None else client.states(bottom, attacked)
    return auditor.report(held, public, settings, tell, client)


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
