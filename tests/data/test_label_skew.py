import numpy as np
from sklearn.feature_extraction.text import TfidfTransformer

from pplr.data.dataset import Ragged
from pplr.data.label_skew import deal_by_dirichlet, user_labels


def test_labels_are_the_largest_term_frequency_times_inverse_item_frequency() -> None:
    texts = ["Games|War", "Games|War|Space", "Games|Farm", "Games", "Games|Space", ""]
    names = sorted({"Games", "War", "Space", "Farm"})
    has = np.array([[name in text.split("|") for name in names] for text in texts], dtype=float)
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, 6, generator.integers(1, 9)) for _ in range(50)]
    counts = np.array([has[row].sum(0) for row in rows])
    weights = np.log(len(texts) / has.sum(0))
    expected = np.where(counts.any(1), np.where(counts > 0, counts * weights, -1).argmax(1), -1)
    assert user_labels(Ragged.from_rows(rows), texts, "|").tolist() == expected.tolist()
    fitted = TfidfTransformer(smooth_idf=False, norm=None).fit(has)
    np.testing.assert_allclose(fitted.idf_ - 1, weights)


def test_whole_texts_and_missing_ones() -> None:
    training = Ragged.from_rows([[0, 0, 1], [1], [2]])
    assert user_labels(training, ["b|x", "a", ""], "").tolist() == [1, 0, -1]
    assert user_labels(training, ["", "", ""], "|").tolist() == [-1, -1, -1]


def skew(alpha: float) -> float:
    labels = np.repeat(np.arange(10), 300)
    generator = np.random.default_rng(3)
    clients = deal_by_dirichlet(labels, 5, alpha, 0.0, generator)
    table = np.zeros((10, 5))
    np.add.at(table, (labels, clients), 1)
    return float((table.max(1) / table.sum(1)).mean())


def test_alpha_sets_how_much_of_a_label_one_client_has() -> None:
    assert skew(1e-3) > 0.97
    assert skew(1e-3) > skew(0.5) > skew(1e5)
    assert skew(1e5) < 0.21


def test_shares_follow_the_dirichlet_distribution() -> None:
    # one label, two clients, alpha 1: the share of client 0 is uniform on [0, 1]
    shares = [
        float((deal_by_dirichlet(np.zeros(200, np.int64), 2, 1.0, 0.0, np.random.default_rng(seed)) == 0).mean())
        for seed in range(400)
    ]
    assert abs(np.mean(shares) - 0.5) < 0.05
    assert abs(np.std(shares) - np.sqrt(1 / 12)) < 0.03


def test_the_least_size_holds() -> None:
    clients = deal_by_dirichlet(np.zeros(100, np.int64), 4, 1e-3, 0.5, np.random.default_rng(0))
    assert np.bincount(clients, minlength=4).min() == 12
