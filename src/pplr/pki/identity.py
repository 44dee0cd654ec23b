"""A party's name in its certificate: pplr://ROLE/NAME among the alternative names of the subject."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, unquote

from cryptography import x509

from pplr.errors import ConfigError, RunError

_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,60}")


class Role(StrEnum):
    """What a party is in a federation."""

    COORDINATOR = "coordinator"
    TRUNK = "trunk"
    CLIENT = "client"


@dataclass(frozen=True)
class Identity:
    """Who somebody is.

    Attributes:
        role: what the party may do.
        name: of the client; the other roles have their own name.
    """

    role: Role
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name in {".", ".."}:
            raise ConfigError(
                f"A certificate cannot be for {self.name!r}: a name has 1 to 60 characters, without '/' and '\\'."
            )

    @property
    def uri(self) -> str:
        """As it stands in a certificate."""
        return f"pplr://{self.role}/{quote(self.name, safe='')}"

    @property
    def folder(self) -> str:
        """Where its files are, below the folder of all certificates."""
        return f"clients/{quote(self.name, safe=' ')}" if self.role is Role.CLIENT else str(self.role)

    def __str__(self) -> str:
        return f"client {self.name}" if self.role is Role.CLIENT else f"the {self.role}"


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return who a certificate is for.

    Raises:
        RunError: it names nobody, or more than one.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = re.fullmatch(r"pplr://(coordinator|trunk|client)/([^/]+)", uris[0]) if len(uris) == 1 else None
    if match is None:
        raise RunError("A certificate does not say whom it is for. Make it with `pplr pki issue`.")
    return Identity(Role(match[1]), unquote(match[2]))
