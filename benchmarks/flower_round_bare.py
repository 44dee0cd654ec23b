"""The app of bare Flower in `flower_round.py`: the messages of a round and nothing else. Copied into an app's folder."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
client = ClientApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Send each node a row and take one back, average them, and have them measured."""
    plan = json.loads(Path(os.environ["FLOWER_ROUND_PLAN"]).read_text(encoding="utf-8"))
    while len(list(grid.get_node_ids())) < plan["silos"]:
        time.sleep(0.2)
    nodes = sorted(grid.get_node_ids())
    rows: dict[int, Any] = {node: np.zeros(plan["numbers"], np.float32) for node in nodes}
    seconds = []
    for _ in range(plan["rounds"]):
        started = time.perf_counter()
        replies = grid.send_and_receive([_message(rows[node], node, "train") for node in nodes])
        mean = np.mean([reply.content.array_records["row"]["row"].numpy() for reply in replies], axis=0)
        rows = dict.fromkeys(nodes, mean)
        list(grid.send_and_receive([_message(rows[node], node, "evaluate") for node in nodes]))
        seconds.append(time.perf_counter() - started)
    Path(plan["output"]).write_text(json.dumps(seconds), encoding="utf-8")


def _message(row: np.ndarray, node: int, kind: str) -> Message:
    return Message(RecordDict({"row": ArrayRecord({"row": Array(row)})}), node, kind)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Return the row with one added."""
    row = message.content.array_records["row"]["row"].numpy() + 1
    records: dict[str, Any] = {"row": ArrayRecord({"row": Array(row)}), "loss": MetricRecord({"loss": 1.0})}
    return Message(RecordDict(records), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return a number."""
    message.content.array_records["row"]["row"].numpy()
    return Message(RecordDict({"loss": MetricRecord({"loss": 1.0})}), reply_to=message)
