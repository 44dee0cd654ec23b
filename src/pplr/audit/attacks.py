"""All attacks on hidden states, in the order of reports."""

from __future__ import annotations

from pplr.audit.attack import Attack
from pplr.audit.inverter import Inverter
from pplr.audit.nearest import NearestToken

ATTACKS: tuple[type[Attack], ...] = (NearestToken, Inverter)
