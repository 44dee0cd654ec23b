"""Train SASRec (RecTools) on the training events of a split, and write its vectors of items and of histories.

Runs in an environment of its own (sasrec_requirements.txt); sasrec.py starts it and tells it when to stop:

    python sasrec_fit.py SPLIT.npz SNAPSHOT.npz '{"n_factors": 64, "epochs_at_once": 2, "seed": 1, ...}'

After every few epochs SNAPSHOT.npz is written and a line with the epoch, the training loss and the processor seconds is printed;
then a line is read, and anything but "on" ends the training. The score of an item is the dot product of its vector with
that of the history, as in the model itself.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Trainer, seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel
from rectools.models.nn.transformers.lightning import TransformerLightningModule

save: Any = np.savez  # its types forbid arrays by name


class AskedPositions(TransformerLightningModule):
    """RecTools' softmax loss, whose logits are computed at positions that have a target and not at padding.

    The value is the same; for short histories it takes a fraction of the time.
    """

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the mean cross-entropy over the positions with a target."""
        items = self.torch_model.item_model.get_all_embeddings()
        states = self.torch_model.encode_sessions(batch, items)
        asked = batch["y"] != 0
        logits = self.torch_model.similarity_module(states[asked][None], items)[0] / self.logits_t
        loss = torch.nn.functional.cross_entropy(logits, batch["y"][asked])
        self.log(self.train_loss_name, loss, on_step=False, on_epoch=True)
        return loss


def main() -> None:
    """Train until told to stop."""
    split_path, snapshot_path, text = sys.argv[1:]
    settings = json.loads(text)
    split = np.load(split_path)
    seed_everything(settings.pop("seed"), verbose=False)
    at_once = settings.pop("epochs_at_once")
    model = SASRecModel(**settings, loss="softmax", lightning_module_type=AskedPositions, get_trainer_func=trainer)
    training = dataset(split, "training")
    asked = {part: dataset(split, part) for part in ("validation", "test")}
    epoch, answer = 0, "on"
    while answer == "on":
        model.fit_partial(training, at_once, at_once)
        if epoch == 0:
            check_loss(model)
        epoch += at_once
        loss = float(model.fit_trainer.callback_metrics[model.train_loss_name])
        save(snapshot_path, **{key: array for part in asked for key, array in vectors(model, asked[part], part)})
        print(json.dumps({"epoch": epoch, "loss": loss, "cpu_seconds": time.process_time()}), flush=True)
        answer = sys.stdin.readline().strip()


def trainer() -> Trainer:
    """Return a trainer that writes and prints nothing."""
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(max_epochs=1, devices=1, accelerator="cpu", **quiet)


def dataset(split: Any, part: str) -> Dataset:
    """Return the rows of a part as RecTools' data; the place in a row stands for the time."""
    offsets, items = split[f"{part}_offsets"], split[f"{part}_items"]
    lengths = np.diff(offsets)
    place = np.arange(len(items)) - np.repeat(offsets[:-1], lengths)
    table = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(lengths)), lengths),
            Columns.Item: items,
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2000-01-01") + pd.to_timedelta(place, unit="s"),
        }
    )
    return Dataset.construct(table)


def vectors(model: SASRecModel, data: Dataset, part: str) -> list[tuple[str, np.ndarray]]:
    """Return row numbers and vectors of the histories that hold a known item, and codes and vectors of known items."""
    preparator = model.data_preparator
    known = preparator.transform_dataset_u2i(data, data.user_id_map.external_ids)
    loader = preparator.get_dataloader_recommend(known, 256)
    histories, items = model.lightning_model._get_user_item_embeddings(loader, "cpu")
    extra = preparator.n_item_extra_tokens
    return [
        (f"{part}_rows", known.user_id_map.external_ids.astype(np.int64)),
        (f"{part}_vectors", histories.numpy().astype(np.float32)),
        ("items", preparator.item_id_map.external_ids[extra:].astype(np.int64)),
        ("item_vectors", items.detach().numpy()[extra:].astype(np.float32)),
    ]


def check_loss(model: SASRecModel) -> None:
    """Stop unless the loss here and RecTools' are the same on a batch without dropout."""
    module = model.lightning_model.eval()
    module.log = lambda *_, **__: None
    batch = next(iter(model.data_preparator.get_dataloader_train()))
    with torch.no_grad():
        ours, theirs = (
            float(step(module, batch, 0)) for step in (AskedPositions.training_step, Original.training_step)
        )
    del module.log
    if abs(ours - theirs) > 1e-4 * abs(theirs):
        raise SystemExit(f"The loss at asked positions is {ours}, that of RecTools {theirs}. Use the pinned version.")


Original = TransformerLightningModule

if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    main()
