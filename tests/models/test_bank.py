from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pplr.models import bank as bank_module
from pplr.models.bank import AdapterBank, gram, mix_

SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 60), st.integers(0, 2**32 - 1))


def rows_of(shape):
    count, width, seed = shape
    rng = np.random.default_rng(seed)
    mixing = rng.random((count, count)) + 1e-3
    rows = torch.from_numpy(rng.normal(size=(count, width)).astype(np.float32))
    return rows, torch.from_numpy(mixing / mixing.sum(1, keepdims=True)), rng


@given(SHAPES)
def test_mixing_is_the_matrix_product_of_old_rows(shape):
    rows, mixing, _ = rows_of(shape)
    expected = mixing.numpy() @ rows.numpy().astype(np.float64)
    mix_(rows, mixing)
    np.testing.assert_allclose(rows.numpy(), expected, rtol=1e-5, atol=1e-5)


@given(SHAPES)
def test_permuting_the_clients_permutes_the_result(shape):
    rows, mixing, rng = rows_of(shape)
    order = torch.from_numpy(rng.permutation(len(rows)))
    permuted = rows[order].clone()
    mix_(rows, mixing)
    mix_(permuted, mixing[order][:, order])
    torch.testing.assert_close(permuted, rows[order], rtol=1e-5, atol=1e-5)


@given(SHAPES)
def test_the_identity_changes_nothing_bit_for_bit(shape):
    rows, _, _ = rows_of(shape)
    before = rows.clone()
    mix_(rows, torch.eye(len(rows), dtype=torch.float64))
    assert torch.equal(rows, before)


@given(SHAPES)
def test_equal_rows_stay_equal(shape):
    rows, mixing, _ = rows_of(shape)
    rows[:] = rows[:1].clone()
    before = rows.clone()
    mix_(rows, mixing)
    torch.testing.assert_close(rows, before, rtol=1e-5, atol=1e-6)


@given(SHAPES, st.integers(1, 9))
def test_blocks_equal_one_product(shape, columns):
    rows, mixing, _ = rows_of(shape)
    whole, cut = rows.clone(), rows.clone()
    mix_(whole, mixing)
    whole_gram = gram(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank_module, "BLOCK_BYTES", 4 * len(rows) * columns)
        mix_(cut, mixing)
        cut_gram = gram(rows)
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cut_gram, whole_gram, rtol=1e-5, atol=1e-4)


@given(SHAPES, st.data())
def test_gram_matrices_of_parts_add_up(shape, data):
    rows, _, rng = rows_of(shape)
    reference = torch.from_numpy(rng.normal(size=rows.shape).astype(np.float32))
    cut = data.draw(st.integers(0, rows.shape[1]))
    exact = (rows - reference).numpy().astype(np.float64)
    parts = gram(rows[:, :cut], reference[:, :cut]) + gram(rows[:, cut:], reference[:, cut:])
    np.testing.assert_allclose(parts.numpy(), exact @ exact.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gram(rows, reference).numpy(), exact @ exact.T, rtol=1e-4, atol=1e-4)


def test_a_row_is_a_view_and_equal_rows_are_copies():
    row = torch.arange(4.0)
    bank = AdapterBank.of_equal_rows(["a", "b"], row)
    bank.row("b").add_(1)
    assert bank.rows.tolist() == [[0, 1, 2, 3], [1, 2, 3, 4]]
    assert row.tolist() == [0, 1, 2, 3]
    assert (len(bank), bank.index("b")) == (2, 1)


def test_mixing_the_bank_uses_old_rows_only():
    bank = AdapterBank(["a", "b"], torch.tensor([[1.0], [3.0]]))
    bank.mix_(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))  # in place row by row would give 3, 3
    assert bank.rows.tolist() == [[3.0], [1.0]]
    before = AdapterBank(["a", "b"], torch.tensor([[1.0], [1.0]]))
    assert gram(bank.rows, before.rows).tolist() == [[4.0, 0.0], [0.0, 0.0]]


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4))
def test_shapes_that_do_not_fit_are_refused(names, rows):
    if names != rows:
        with pytest.raises(ValueError, match="one row per client"):
            AdapterBank([str(i) for i in range(names)], torch.zeros(rows, 3))
        with pytest.raises(ValueError, match="mixing matrix"):
            mix_(torch.zeros(rows, 3), torch.eye(names))
