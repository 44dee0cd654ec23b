"""What attacks read: everything where a state is its token, nothing where it says nothing, and context where it helps."""

from __future__ import annotations

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from pplr.audit.attacks import ATTACKS
from pplr.audit.inverter import Inverter
from pplr.audit.nearest import NearestToken, statistics
from pplr.audit.observed import Observed

WIDTH, NAMED, LENGTH = 12, 30, 20


def texts(count: int, seed: int) -> torch.Tensor:
    """Token ids [count, LENGTH], each a multiple of 10."""
    return 10 * torch.randint(NAMED, (count, LENGTH), generator=torch.Generator().manual_seed(seed))


def observed(states: torch.Tensor) -> Observed:
    """Of states [texts, LENGTH, width]."""
    return Observed(states.flatten(0, 1), (states.shape[1],) * len(states))


def vectors() -> torch.Tensor:
    return torch.randn(NAMED * 10, WIDTH, generator=torch.Generator().manual_seed(9))


def share_read(attack, make, public=60, held=20):
    known, secret = texts(public, 1), texts(held, 2)
    reader = attack.fit(observed(make(known, 3)), known.flatten(), seed=1)
    return float((reader.likeliest(reader.scores(observed(make(secret, 4)))) == secret.flatten()).float().mean())


@pytest.mark.parametrize("attack", ATTACKS)
def test_embeddings_are_read_entirely(attack):
    assert share_read(attack(), lambda ids, seed: vectors()[ids]) == 1.0


@pytest.mark.parametrize("attack", ATTACKS)
def test_random_states_say_nothing(attack):
    def noise(ids, seed):
        return torch.randn(*ids.shape, WIDTH, generator=torch.Generator().manual_seed(seed))

    assert share_read(attack(), noise, held=100) < 2 / NAMED


def test_the_inverter_reads_what_context_hides():
    """Where a state is mostly the token before, that token's own state tells what to take away."""

    def mixed(ids, seed):
        own = vectors()[ids]
        before = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], dim=1)
        return own + 2 * before.roll(1, dims=2)

    nearest = share_read(NearestToken(), mixed, public=150)
    inverter = share_read(Inverter(epochs=25, batch=64), mixed, public=150)
    assert nearest < 0.7
    assert inverter > nearest + 0.15


def test_the_nearest_token_is_that_of_linear_discriminant_analysis():
    generator = torch.Generator().manual_seed(5)
    tokens = 10 * torch.arange(NAMED).repeat(25)  # as many states each: scikit-learn weighs tokens, not states
    shape = torch.randn(WIDTH, WIDTH, generator=generator)
    states = vectors()[tokens] + torch.randn(len(tokens), WIDTH, generator=generator) @ shape
    other = vectors()[tokens[:200]] + torch.randn(200, WIDTH, generator=generator) @ shape
    lda = LinearDiscriminantAnalysis(solver="lsqr").fit(states.double().numpy(), tokens.numpy())
    found = NearestToken(shrinkage=1e-9).fit(Observed(states, (len(states),)), tokens, 1)
    asked = Observed(other, (len(other),))
    assert found.likeliest(found.scores(asked)).tolist() == lda.predict(other.double().numpy()).tolist()
    unbiased = len(states) / (len(states) - NAMED)  # it divides the covariance by n, and not by n - tokens
    scores = (found.scores(asked) * unbiased).log_softmax(dim=1)
    assert torch.allclose(scores.exp(), torch.from_numpy(lda.predict_proba(other.double().numpy())).float(), atol=1e-3)


def test_whitened_states_have_the_identity_as_covariance_around_means():
    tokens = texts(60, 1).flatten()
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(len(tokens), WIDTH, generator=generator)
    states = vectors()[tokens] + noise @ (torch.eye(WIDTH) + 0.2 * torch.randn(WIDTH, WIDTH, generator=generator))
    known = statistics(states, tokens, shrinkage=1e-6)
    around = known.whitened(states) - known.means[known.labels]
    covariance = around.T @ around / (len(tokens) - len(known.tokens))
    assert torch.allclose(covariance, torch.eye(WIDTH), atol=1e-3)


def test_the_inverter_does_not_look_beyond_a_text():
    known = texts(30, 1)
    reader = Inverter().fit(observed(vectors()[known]), known.flatten(), seed=1)
    both = observed(vectors()[texts(2, 6)])
    alone = torch.cat([reader.scores(text) for text in both.each()])
    assert torch.allclose(reader.scores(both), alone, atol=1e-4)


def test_the_same_seed_gives_the_same_inverter():
    known = texts(20, 1)
    noisy = vectors()[known] + torch.randn(*known.shape, WIDTH, generator=torch.Generator().manual_seed(1))
    one, same, other = (Inverter().fit(observed(noisy), known.flatten(), seed) for seed in (1, 1, 2))
    asked = observed(noisy[:2])
    assert torch.equal(one.scores(asked), same.scores(asked))
    assert not torch.equal(one.scores(asked), other.scores(asked))
