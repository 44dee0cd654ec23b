"""Whether a coordinator answers at an address, and whether its clock is ours."""

from __future__ import annotations

import http.client
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from pplr.address import Address
from pplr.errors import RunError
from pplr.pki.authority import CA
from pplr.silos.processes import Security

LARGEST_SKEW = 5.0
"""Seconds by which clocks may differ; Flower refuses what seems to be signed long ago or in the future."""
ANSWER_SECONDS = 10.0


@dataclass(frozen=True)
class Answer:
    """What a coordinator's SuperLink said.

    Attributes:
        seconds: how long it took.
        skew: seconds by which its clock differs from ours, at least.
    """

    seconds: float
    skew: float


def reached(address: Address, security: Security) -> str:
    """Ask a coordinator's SuperLink anything, and return in words how it answered.

    Raises:
        RunError: nobody answers, it is somebody else, or its clock is far from ours.
    """
    answer = asked(address, security)
    check_clocks(answer)
    return f"answers at {address} in {answer.seconds * 1000:.0f} ms; the clocks agree"


def asked(address: Address, security: Security) -> Answer:
    """Ask a coordinator's SuperLink anything; the answer has its clock.

    Raises:
        RunError: nobody answers, or it is somebody else.
    """
    started = time.monotonic()
    date = _date(address, security)
    # the date has whole seconds
    return Answer(time.monotonic() - started, max(0.0, abs(time.time() - date) - 1.0))


def check_clocks(answer: Answer) -> None:
    """Refuse a coordinator whose clock is far from ours.

    Raises:
        RunError: so it is.
    """
    if answer.skew > LARGEST_SKEW + answer.seconds:
        raise RunError(
            f"The clocks of this machine and of the coordinator differ by {answer.skew:.0f} seconds; {LARGEST_SKEW:.0f} "
            "are allowed. Let both follow a time server (timedatectl set-ntp true)."
        )


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
