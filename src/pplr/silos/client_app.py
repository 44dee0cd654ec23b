"""Flower's ClientApp of a silo: it passes messages on to the silo's own process, and knows nothing else.

Flower starts this module anew for each message, so it imports nothing heavy.
"""

from __future__ import annotations

import os

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from pplr.errors import RunError
from pplr.silos.parcel import Parcel, failure
from pplr.silos.records import content_of, parcel_of
from pplr.silos.resident import SOCKET, ask

app = ClientApp()


@app.train()
@app.evaluate()
@app.query()
def pass_on(message: Message, context: Context) -> Message:
    """Return the answer of the silo's process; what goes wrong is said in it."""
    try:
        reply = _answered(parcel_of(message.content), context)
    except RunError as problem:
        reply = failure(str(problem))
    return Message(content_of(reply), reply_to=message)


def _answered(parcel: Parcel, context: Context) -> Parcel:
    address = os.environ.get(SOCKET)
    if address is not None:
        return ask(address, parcel)
    from pplr.silos.simulated import answered

    return answered(parcel, int(context.node_config["partition-id"]))
