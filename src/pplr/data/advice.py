"""From the numbers of a report to sentences: what may spoil a result, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from pplr.data.report import DataReport, SplitQuality


def advice(report: DataReport, has_split_column: bool) -> tuple[str, ...]:
    """Return one sentence or two per risk that the report shows; shares below one in a hundred are let pass.

    Args:
        report: the report without its warnings.
        has_split_column: whether the events have a split column.
    """
    sentences = [*_about_texts(report), *_about_order(report)]
    if report.split is not None:
        sentences += [*_about_leakage(report.split), *_about_targets(report.split, report.users)]
        if has_split_column and report.split.kind == "leave-one-out":
            sentences.append(
                "The events have a split column, which 'leave-one-out' ignores. Set data.split.kind to 'global-time' "
                "to use it."
            )
    return tuple(sentences)


def _about_texts(report: DataReport) -> Iterator[str]:
    text, items = report.text, report.items
    if text.all_capitals * 2 > items:
        yield (
            f"{_share(text.all_capitals, items)} of the titles are all capitals, which language models read poorly. "
            "Write them in ordinary case."
        )
    if text.duplicates * 100 > items:
        yield (
            f"{text.duplicates:,} items share their title with another, and a model that reads titles cannot tell them "
            "apart. Add what differs (edition, platform, colour) to the title."
        )
    if text.longer_than_limit * 100 > items:
        yield (
            f"{_share(text.longer_than_limit, items)} of the titles are longer than data.cleaning.title_length and are "
            "cut. Put what matters first, or raise the limit."
        )
    if report.items_without_events * 20 > items:
        yield (
            f"{report.items_without_events:,} of {items:,} items have no events; they stay in the catalogue and can be "
            "recommended by their text. Leave out of the file what cannot be had."
        )


def _about_order(report: DataReport) -> Iterator[str]:
    order, events = report.order, report.events
    if order.ordered_by == "file order":
        yield (
            "Neither time nor position orders the events: the file's order is taken. Name data.columns.time or "
            "data.columns.position if the file has one."
        )
    if order.ties * 100 > events:
        yield (
            f"{_share(order.ties, events)} of the events tie with the user's event before, for "
            f"{order.users_with_ties:,} users: their order means nothing. Give a finer time, or a position."
        )


def _about_leakage(split: SplitQuality) -> Iterator[str]:
    if split.ties_at_cut * 100 > split.test_users:
        yield (
            f"{split.ties_at_cut:,} of {split.test_users:,} test users have ties at the cut of 'leave-one-out': events "
            "of one moment (a basket) are told apart by the file's order, and predict each other. Use 'global-time', "
            "or give one event per moment."
        )
    if split.late_training:
        yield (
            f"{split.late_training:,} training events come after a validation or test event of the same user, so the "
            "future is trained on. Correct the split column, or set data.split.cut to 'ratio'."
        )
    if split.training_after_test is not None and split.training_after_test > 0.01:
        yield (
            f"{split.training_after_test:.0%} of the training events are later than the median test event: training "
            "sees what other users do after the moment that is asked about. Use 'global-time' for claims "
            "about the future."
        )


def _about_targets(split: SplitQuality, users: int) -> Iterator[str]:
    if split.test_unseen > 0.2:
        yield (
            f"{split.test_unseen:.0%} of the test targets never occur in training: only their text can recommend them, "
            "and baselines that count cannot. Do not compare with results on data without new items."
        )
    if split.test_repeated > 0.01:
        yield (
            f"{split.test_repeated:.0%} of the test targets are already in the user's history, which is masked in the "
            "ranking: they count as misses. Set evaluation.mask_history = false where users choose things again, or leave "
            "repeated choices out of the data."
        )
    if split.test_users * 2 < users:
        yield (
            f"Only {split.test_users:,} of {users:,} users are asked in the test: the others have no test event or no "
            "history. Give more events per user, or another split."
        )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}"
