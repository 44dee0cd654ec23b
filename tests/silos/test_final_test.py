"""The test at a run's end: who answers in time counts, and without anybody there are no figures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pplr.data.dataset import Part
from pplr.errors import RunError
from pplr.federation.messages import ClientInfo, Report
from pplr.silos.coordinate import TEST_DEADLINES, _test


def engine(reporting: str) -> SimpleNamespace:
    asked: list[float | None] = []

    def evaluate(tasks, observer, seconds=None):
        asked.append(seconds)
        return [Report(task.client, task.part, 1.0, 3) for task in tasks if task.client in reporting]

    clients = (ClientInfo("a", 5), ClientInfo("b", 5), ClientInfo("late", 0, here=False))
    return SimpleNamespace(clients=clients, evaluate=evaluate, asked=asked)


@pytest.mark.parametrize(("deadline", "seconds"), [(None, None), (60.0, 60.0 * TEST_DEADLINES)])
def test_it_has_a_deadline_where_rounds_have_one(deadline, seconds):
    one, events = engine("a"), []
    assert list(_test(one, 4, events.append, deadline)) == ["a"]
    assert one.asked == [seconds]
    assert [(event.name, event.client) for event in events] == [("tested", "a")]
    assert Part.TEST is _test(one, 4, events.append, deadline)["a"].part


def test_without_any_report_the_run_has_no_figures_and_says_so():
    with pytest.raises(RunError, match=r"No silo has reported of its test part.*--resume"):
        _test(engine(""), 4, lambda event: None, 60.0)
