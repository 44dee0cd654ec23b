"""`pplr pki`: from an empty folder to certificates, and back."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography import x509


def test_the_commands(cli, tmp_path: Path) -> None:
    folder = tmp_path / "my certificates"
    assert cli("pki", "list", str(folder)).exit_code == 2
    made = cli("pki", "init", str(folder), "--client", "shop-1", "--client", "shop-2", "--host", "trunk.example.org")
    assert made.exit_code == 0, made.output
    assert "2 clients" in made.stderr
    certificate = x509.load_pem_x509_certificate((folder / "trunk" / "certificate.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "trunk.example.org"]
    assert cli("pki", "issue", str(folder), "--client", "shop-3", "--days", "10").exit_code == 0
    assert cli("pki", "revoke", str(folder), "--client", "shop-1").exit_code == 0
    assert cli("pki", "revoke", str(folder), "--client", "shop-1").exit_code == 2
    assert cli("pki", "issue", str(folder)).exit_code == 2
    rows = json.loads(cli("pki", "list", str(folder), "--json").stdout)
    assert [(row["name"], bool(row["revoked"])) for row in rows] == [
        ("trunk", False),
        ("coordinator", False),
        ("shop-1", True),
        ("shop-2", False),
        ("shop-3", False),
    ]
    assert "shop-3" in cli("pki", "list", str(folder)).stdout
