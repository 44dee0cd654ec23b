"""Whether a coordinator answers at an address, and whether its clock is ours."""

from __future__ import annotations

import http.client
import ssl
import time
from email.utils import parsedate_to_datetime

from pplr.address import Address
from pplr.errors import RunError
from pplr.pki.authority import CA
from pplr.silos.processes import Security

LARGEST_SKEW = 5.0
"""Seconds by which clocks may differ; Flower refuses what seems to be signed long ago or in the future."""
ANSWER_SECONDS = 10.0


def reached(address: Address, security: Security) -> str:
    """Ask a coordinator's SuperLink anything, and return in words how it answered; the answer has its clock.

    Raises:
        RunError: nobody answers, it is somebody else, or its clock is far from ours.
    """
    started = time.monotonic()
    date = _date(address, security)
    taken = time.monotonic() - started
    skew = abs(time.time() - date) - 1.0  # the date has whole seconds
    if skew > LARGEST_SKEW + taken:
        raise RunError(
            f"The clocks of this machine and of the coordinator differ by {skew:.0f} seconds; {LARGEST_SKEW:.0f} are "
            "allowed. Let both follow a time server (timedatectl set-ntp true)."
        )
    return f"answers at {address} in {taken * 1000:.0f} ms; the clocks agree"


def _date(address: Address, security: Security) -> float:
    """Return the time in the answer, in unix seconds."""
    connection: http.client.HTTPConnection
    if security.certificates is None:
        connection = http.client.HTTPConnection(address.name, address.port, timeout=ANSWER_SECONDS)
    else:
        context = ssl.create_default_context(cafile=str(security.certificates / CA))
        connection = http.client.HTTPSConnection(address.name, address.port, timeout=ANSWER_SECONDS, context=context)
    try:
        connection.request("GET", "/")
        date = connection.getresponse().headers.get("date")
    except ssl.SSLCertVerificationError as problem:
        raise RunError(
            f"The certificate of whoever answers at {address} is not accepted: {problem.verify_message}. Use certificates "
            "of one authority everywhere, and one for the coordinator that names its address (`pplr pki issue --host`)."
        ) from problem
    except (OSError, http.client.HTTPException) as problem:
        raise RunError(
            f"The coordinator does not answer at {address}: {problem}. Is it running, and is this its address?"
        ) from problem
    finally:
        connection.close()
    if date is None:
        raise RunError(f"Whoever answers at {address} is no SuperLink. Look at the address.")
    return parsedate_to_datetime(date).timestamp()
