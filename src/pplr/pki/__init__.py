"""Certificates: who the parties are to each other (docs/certificates.md)."""

from pplr.pki.authority import Authority, Issued
from pplr.pki.identity import Identity, Role, identity_of
from pplr.pki.party import Party, Revocations

__all__ = ["Authority", "Identity", "Issued", "Party", "Revocations", "Role", "identity_of"]
