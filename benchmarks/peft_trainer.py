"""The usual way to fine-tune a decoder: Hugging Face's Trainer over PEFT's LoRA, on the examples of a backbone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pplr.models.generative import GenerativeBackbone, TitleExamples

IGNORED = -100
Row = dict[str, list[int]]


def tokenised(backbone: GenerativeBackbone, examples: TitleExamples) -> list[Row]:
    """Return `input_ids` and `labels` of each example; prompts are read and not learned."""
    rows = []
    for history, target in zip(examples.histories, examples.targets, strict=True):
        prompt, title = backbone.prompts.prompt(history), backbone.titles[target]
        rows.append({"input_ids": [*prompt, *title], "labels": [*[IGNORED] * len(prompt), *title]})
    return rows


def collate(rows: list[Row]) -> dict[str, Tensor]:
    """Return a batch padded to its longest example."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    }


class PeftTraining:
    """Trains one PEFT model, pass after pass."""

    def __init__(self, model: Any, *, rank: int, scale: int, dropout: float, targets: tuple[str, ...]) -> None:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM"
        )
        self.model = get_peft_model(model, config)

    def epoch(self, rows: list[Row], *, batch: int, rate: float, seed: int, work: Path) -> tuple[float, float, int]:
        """Return wall seconds, CPU seconds and padded tokens of one epoch in random order."""
        from transformers import Trainer, TrainerCallback, TrainingArguments

        clock: list[tuple[float, float]] = []
        padded = 0

        class Clock(TrainerCallback):  # type: ignore[misc, unused-ignore]  # the class may be untyped
            def on_epoch_begin(self, *_: Any, **__: Any) -> None:
                clock.append((time.perf_counter(), time.process_time()))

            def on_epoch_end(self, *_: Any, **__: Any) -> None:
                clock.append((time.perf_counter(), time.process_time()))

        def counted(batch_rows: list[Row]) -> dict[str, Tensor]:
            nonlocal padded
            collated = collate(batch_rows)
            padded += collated["input_ids"].numel()
            return collated

        arguments = TrainingArguments(
            output_dir=str(work),
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            learning_rate=rate,
            lr_scheduler_type="constant",
            weight_decay=0.01,
            max_grad_norm=1.0,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=self.model, args=arguments, train_dataset=rows, data_collator=counted, callbacks=[Clock()]
        )
        trainer.train()
        (wall, cpu), (wall_end, cpu_end) = clock[0], clock[-1]
        return wall_end - wall, cpu_end - cpu, padded

    @torch.no_grad()
    def loss(self, rows: list[Row]) -> float:
        """Return the mean loss per target token of a batch, without dropout."""
        self.model.eval()
        return float(self.model(**collate(rows)).loss)
