"""Tiny catalogues, tokenizers, models and federations: random weights, real code. Also used outside of pytest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel
from torch import nn

from pplr.data.dataset import Catalogue, ClientData, Dataset, Part, Ragged
from pplr.federation import Client, Coordinator, FederationSettings, Measuring
from pplr.federation.audit_log import AuditLog
from pplr.federation.checkpoints import CheckpointStore
from pplr.federation.engines import InProcessEngine
from pplr.federation.events import Observer, ignore
from pplr.federation.strategies import STRATEGIES, Strategy
from pplr.models.layout import Layout
from pplr.models.sequence import SequenceBackbone
from pplr.models.sequence_settings import SequenceSettings
from pplr.training import TrainingSettings

CPU = torch.device("cpu")
WORDS = [
    "red",
    "blue",
    "green",
    "old",
    "new",
    "lost",
    "last",
    "first",
    "night",
    "day",
    "river",
    "city",
    "house",
    "king",
    "queen",
    "star",
    "ship",
    "road",
    "fire",
    "rain",
]
BYTES = 260
"""Vocabulary of the byte tokenizer: 256 bytes and four special tokens."""


def catalogue(items: int = 30, seed: int = 0) -> Catalogue:
    """Items with titles of one to four words; items 3 and 4 share a title, item 5 has no genre."""
    rng = np.random.default_rng(seed)
    titles = [" ".join(rng.choice(WORDS, size=rng.integers(1, 5))) for _ in range(items)]
    genres = [str(rng.choice(["Drama|History", "Comedy", "Action"])) for _ in range(items)]
    if items > 5:
        titles[4], genres[5] = titles[3], ""
    return Catalogue(tuple(f"i{i}" for i in range(items)), tuple(titles), {"genre": tuple(genres)})


def dataset(users: int = 40, items: int = 30, seed: int = 0) -> Dataset:
    """Histories of 4 to 12 items, in which item i is often followed by i + 1; the last two events are held out."""
    rng = np.random.default_rng(seed)
    rows, parts = [], []
    for _ in range(users):
        row = [int(rng.integers(items))]
        for _ in range(int(rng.integers(3, 12))):
            row.append((row[-1] + 1) % items if rng.random() < 0.7 else int(rng.integers(items)))
        rows.append(row)
        parts += [Part.TRAIN] * (len(row) - 2) + [Part.VALIDATION, Part.TEST]
    names = tuple(f"u{u}" for u in range(users))
    return Dataset(catalogue(items), names, Ragged.from_rows(rows), np.asarray(parts, np.int8))


def client_data(data: Dataset, name: str, users: Sequence[int]) -> ClientData:
    """What a client owns that has these users."""
    wanted = np.asarray(users, np.int64)
    training = data.training().select(wanted)

    def queries(part: Part):
        every = data.queries(part)
        return every.select(np.flatnonzero(np.isin(every.users, wanted)))

    return ClientData(name, wanted, training, queries(Part.VALIDATION), queries(Part.TEST))


def byte_tokenizer(*, bos: bool = False) -> Any:
    """A decoder's tokenizer: one token per byte, id 0 the end, 1 the start, 2 padding."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<end>", "<start>", "<pad>", "<unknown>"]
    inner = Tokenizer(BPE({token: i for i, token in enumerate([*special, *alphabet])}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(special)
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<end>", bos_token="<start>" if bos else None, pad_token="<pad>"
    )


def word_tokenizer() -> Any:
    """An encoder's tokenizer: one token per word, between [CLS] and [SEP]; unknown words are [UNK]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    extra = ["genre", ":", ";", ",", "Drama", "History", "Comedy", "Action"]
    inner = Tokenizer(WordLevel({token: i for i, token in enumerate([*special, *extra, *WORDS])}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def _ready(model: nn.Module) -> Any:
    """In evaluation mode, frozen, and with weights large enough that every part matters."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3 if parameter.shape[0] < BYTES else 0.5, generator=generator)
    return model.eval().requires_grad_(False)


def decoder(kind: str, **changes: Any) -> Any:
    """A random causal language model over the byte tokenizer: llama, qwen2, gemma2 or gemma3."""
    shape: dict[str, Any] = {
        "vocab_size": BYTES,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "eos_token_id": 0,
        "bos_token_id": 1,
        "pad_token_id": 2,
        "attn_implementation": "eager" if kind == "gemma2" else "sdpa",
    }
    if kind.startswith("gemma"):
        shape |= {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 64}
    configs = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "gemma2": "Gemma2Config", "gemma3": "Gemma3TextConfig"}
    config = getattr(transformers, configs[kind])(**(shape | changes))
    return _ready(transformers.AutoModelForCausalLM.from_config(config))


def encoder(kind: str, **changes: Any) -> Any:
    """A random encoder over the word tokenizer: bert, mpnet or longformer."""
    shape: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 130,
        "pad_token_id": 0,
    }
    if kind == "mpnet":
        shape |= {"pad_token_id": 1}
    if kind == "longformer":
        shape |= {"attention_window": [8, 8]}
    configs = {"bert": "BertConfig", "mpnet": "MPNetConfig", "longformer": "LongformerConfig"}
    config = getattr(transformers, configs[kind])(**(shape | changes))
    options = {"bert": {"add_pooling_layer": False}, "mpnet": {"add_pooling_layer": False}}.get(kind, {})
    classes = {"bert": "BertModel", "mpnet": "MPNetModel", "longformer": "LongformerModel"}
    return _ready(getattr(transformers, classes[kind])(config, **options))


def sequence_backbone(data: Dataset, **settings: Any) -> SequenceBackbone:
    """A sequence backbone over a tiny random BERT."""
    chosen = SequenceSettings(**({"width": 8, "layers": 1, "heads": 2, "positions": 6} | settings))
    return SequenceBackbone(chosen, data.catalogue, encoder("bert"), word_tokenizer(), CPU)


MEASURING = Measuring(ks=(5, 10), max_users=None, mask_history=True, select_by="ndcg@10")
TRAINING = TrainingSettings(epochs=1, learning_rate=0.02, batch_tokens=40, warmup_steps=2)


def federation(
    folder: Path | None,
    *,
    strategy: str | Strategy = "pplr",
    clients: int = 4,
    users: int = 40,
    order: Sequence[int] | None = None,
    observer: Observer = ignore,
    measuring: Measuring = MEASURING,
    training: TrainingSettings = TRAINING,
    backbone_settings: dict[str, Any] | None = None,
    seed: int = 5,
    audit: AuditLog | None = None,
    **settings: Any,
) -> tuple[Coordinator, list[Client]]:
    """A coordinator over clients of real, tiny parts; `order` is the order in which the engine is given them."""
    data = dataset()
    backbone = sequence_backbone(data, **(backbone_settings or {"bias": "private"}))
    chosen_strategy = STRATEGIES[strategy]() if isinstance(strategy, str) else strategy
    backbone.layout = Layout(chosen_strategy.scope(backbone.layout.specs))
    owners = [client_data(data, f"client-{c}", range(c, users, clients)) for c in range(clients)]
    objective = chosen_strategy.local_objective
    members = [Client(owner, backbone, training, measuring, seed, objective=objective) for owner in owners]
    engine = InProcessEngine([members[i] for i in (order or range(clients))])
    chosen = FederationSettings(**({"rounds": 4, "patience": 4} | settings))
    row = backbone.layout.initial_row(seed)[: backbone.layout.shared]
    coordinator = Coordinator(
        engine,
        chosen_strategy,
        chosen,
        row,
        seed=seed,
        select_by=measuring.select_by,
        store=None if folder is None else CheckpointStore(folder),
        aggregator=chosen_strategy.aggregator(backbone.layout, row),
        audit=audit,
        observer=observer,
    )
    return coordinator, members


def without_training(owner: ClientData) -> ClientData:
    """The same client with no training events left."""
    return replace(owner, training=Ragged.from_rows([[] for _ in owner.users]))
