"""fedadam against torch's Adam, qfedavg against the paper's algorithm, robust against SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from row_cohorts import LAYOUT, combined, round_of
from scipy.stats import trim_mean

from pplr.federation.strategies import FedAdam, FedAvg, QFedAvg, Robust

COUNTS = st.integers(1, 9)
SEEDS = st.integers(0, 2**31)


@pytest.mark.parametrize(("beta1", "beta2", "tau"), [(0.9, 0.99, 1e-3), (0.5, 0.9, 0.1), (0.0, 0.999, 1e-2)])
def test_fedadam_is_torchs_adam_on_the_average_change(beta1, beta2, tau):
    """Torch divides both moments by 1 - beta^t and adds epsilon behind that division; the paper's step does not divide.

    With the rate times (1 - beta1^t) / sqrt(1 - beta2^t), and epsilon = tau / sqrt(1 - beta2^t), both are one.
    """
    strategy = FedAdam(eta=0.05, beta1=beta1, beta2=beta2, tau=tau)
    start = round_of(0, 4).start
    aggregator = strategy.aggregator(LAYOUT, start)
    model = start.clone().requires_grad_()
    adam = torch.optim.Adam([model], betas=(beta1, beta2))
    adam.state[model] = {
        "step": torch.tensor(0.0),
        "exp_avg": torch.zeros_like(start),
        "exp_avg_sq": torch.full_like(start, tau**2),
    }
    for number in range(1, 8):
        one = round_of(number, 4, absent=number % 3, number=number)
        one.rows = model.detach() + (one.rows - one.start)
        model.grad = model.detach() - combined(FedAvg(), one)[0]
        corrected = np.sqrt(1 - beta2**number)
        adam.param_groups[0].update(lr=0.05 * (1 - beta1**number) / corrected, eps=tau / corrected)
        found = combined(strategy, one, aggregator=aggregator)
        adam.step()
        torch.testing.assert_close(found, model.detach().expand_as(found), rtol=1e-9, atol=1e-12)
    assert float((model.detach() - start).abs().max()) > 0.05


@given(SEEDS, COUNTS, st.integers(0, 4), st.sampled_from([0.1, 1.0, 2.5, 20.0]), st.sampled_from([0.01, 1.0, 30.0]))
def test_qfedavg_is_the_papers_algorithm(seed, count, absent, q, lipschitz):
    one = round_of(seed, count, absent=min(absent, count - 1))
    here = [c for c in range(count) if one.present[c]]
    above, below = torch.zeros_like(one.start), 0.0
    for c in here:
        share, loss = one.sizes[c] / sum(one.sizes[i] for i in here), one.losses[c]
        delta = lipschitz * (one.start - one.rows[c])
        above += share * loss**q * delta
        below += share * (q * loss ** (q - 1) * float(delta @ delta) + lipschitz * loss**q)
    found = combined(QFedAvg(q=q, lipschitz=lipschitz), one)
    torch.testing.assert_close(found, (one.start - above / below).expand_as(found), rtol=1e-8, atol=1e-10)


@given(SEEDS, COUNTS, st.sampled_from([0.1, 1.0, 5.0]))
def test_qfedavg_that_shortens_no_step_is_the_limit(seed, count, q):
    one = round_of(seed, count)
    found, near = (combined(QFedAvg(q=q, lipschitz=lipschitz), one) for lipschitz in (0.0, 1e-9))
    torch.testing.assert_close(found, near, rtol=1e-5, atol=1e-5)


def test_qfedavg_leans_to_the_client_with_the_largest_loss():
    one = round_of(2, 3)
    one.losses, one.sizes = np.array([1.0, 2.0, 4.0]), np.ones(3)
    matrices = [QFedAvg(q=q).mixing(_cohort(one)).matrix[0] for q in (0, 1, 3, 100)]
    np.testing.assert_allclose(matrices[1], [1 / 7, 2 / 7, 4 / 7])
    assert np.all(np.diff([matrix[2] for matrix in matrices]) > 0)
    assert matrices[-1][2] == pytest.approx(1)


def test_qfedavg_stands_losses_of_zero_and_extreme_powers():
    one = round_of(2, 3)
    for losses in ([0.0, 0.0, 0.0], [0.0, 1.0, 5e4]):
        one.losses = np.array(losses)
        for q in (0.01, 1, 100):
            assert torch.isfinite(combined(QFedAvg(q=q, lipschitz=1), one)).all()


def _cohort(one):
    from row_cohorts import cohort_of

    return cohort_of(QFedAvg(q=0), one)


@given(SEEDS, COUNTS, st.integers(0, 4))
def test_the_median_is_numpys(seed, count, absent):
    one = round_of(seed, count, absent=min(absent, count - 1))
    expected = np.median(one.rows.numpy()[one.present], axis=0)
    for row in combined(Robust(), one):
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-12)


@given(SEEDS, COUNTS, st.integers(0, 4), st.sampled_from([0.0, 0.1, 0.2, 0.25, 0.4, 0.49]))
def test_the_trimmed_mean_is_scipys(seed, count, absent, trim):
    one = round_of(seed, count, absent=min(absent, count - 1))
    expected = trim_mean(one.rows.numpy()[one.present], trim, axis=0)
    for row in combined(Robust(method="trimmed_mean", trim=trim), one):
        np.testing.assert_allclose(row.numpy(), expected, rtol=1e-12)


def test_a_share_that_is_whole_but_for_rounding_is_whole():
    assert [Robust(method="trimmed_mean", trim=0.1).left_out(count) for count in (9, 10, 20, 30)] == [0, 1, 2, 3]
    assert [Robust().left_out(count) for count in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]


def test_one_wrong_client_moves_the_average_but_not_the_median():
    one = round_of(4, 5)
    wrong = round_of(4, 5)
    wrong.rows[2] = 1e6
    moved = [float((combined(s, wrong) - combined(s, one)).abs().max()) for s in (FedAvg(), Robust())]
    assert moved[0] > 1e4
    assert moved[1] < 2
