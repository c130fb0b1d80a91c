import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from scarcity_ray.inference.shrinkage import _above, _grid, _log_half, _mean_of_half, _weights, _with_null, shrink

GAINS = st.lists(st.tuples(st.floats(-3, 3), st.floats(0.05, 2)), min_size=1, max_size=30)


@pytest.mark.parametrize(("g", "s", "a"), [(0.3, 0.5, 1.0), (-2.0, 0.4, 0.7), (5.0, 0.3, 1.0), (0.0, 1.0, 0.1)])
def test_half_uniforms_by_quadrature(g, s, a):
    def expect(f):
        return quad(lambda x: f(x) * norm.pdf(g, x, s) / a, 0, a, epsabs=0)[0]

    mass = expect(lambda x: 1.0)
    g_, s_, a_ = np.array([g]), np.array([s]), np.array([a])
    assert np.exp(_log_half(g_, s_, a_))[0, 0] == pytest.approx(mass)
    assert _mean_of_half(g_, s_, a_)[0, 0] == pytest.approx(expect(lambda x: x) / mass)
    above = quad(lambda x: norm.pdf(g, x, s) / a, 0.05, a, epsabs=0)[0] / mass
    assert _above(g_, s_, a_, 0.05)[0, 0] == pytest.approx(above)


def test_far_tails_stay_finite():
    found = shrink([1e6, -1e6, 0.0], [1e-3, 1e-3, 1e-3])
    assert np.isfinite(found.mean).all()
    assert found.mean[:2] == pytest.approx([1e6, -1e6], rel=1e-3)
    assert found.low[:2] == pytest.approx([1e6 - 1.96e-3, -1e6 - 1.96e-3], abs=1e-5)
    assert found.high[:2] == pytest.approx([1e6 + 1.96e-3, -1e6 + 1.96e-3], abs=1e-5)
    assert list(found.sure) == [1, -1, 0]


def test_weights_cannot_be_improved():
    """At a maximum of the penalised likelihood no component's gradient is above that of the whole (Karush, Kuhn and Tucker)."""
    draw = np.random.default_rng(0)
    likelihood = draw.random((200, 6))
    weights = _weights(likelihood)
    penalty = np.array([0.5, 0, 0, 0, 0, 0])
    gradient = ((1 / (likelihood @ weights)) @ likelihood) + penalty / weights
    assert (gradient <= 200.5 * 1.01).all()


def test_noise_is_nobody_better():
    draw = np.random.default_rng(0)
    found = shrink(draw.normal(size=200), np.ones(200))
    assert not found.sure.any()
    assert found.share_better < 0.2
    assert found.share_equal > 0.6


def test_all_better():
    draw = np.random.default_rng(0)
    found = shrink(0.05 + draw.normal(size=200) * 0.01, np.full(200, 0.01))
    assert (found.sure == 1).all()
    assert found.share_better > 0.98


def test_means_are_nearer_the_truth():
    draw = np.random.default_rng(1)
    truth = np.where(draw.random(3000) < 0.7, 0, draw.normal(size=3000))
    gains = truth + 0.5 * draw.normal(size=3000)
    found = shrink(gains, np.full(3000, 0.5))
    assert np.mean((found.mean - truth) ** 2) < 0.6 * np.mean((gains - truth) ** 2)
    sure = found.sure != 0
    assert np.mean(np.sign(truth[sure]) != found.sure[sure]) < 0.05


@given(GAINS)
def test_shares_sum_to_one_and_means_shrink(clients):
    gains, errors = map(np.array, zip(*clients, strict=True))
    found = shrink(gains, errors)
    assert found.share_better + found.share_equal + found.share_worse == pytest.approx(1)
    assert (np.abs(found.mean) <= np.abs(gains) + errors).all()
    assert ((found.better >= 0) & (found.worse >= 0) & (found.better + found.worse <= 1 + 1e-9)).all()
    np.testing.assert_allclose(found.lfsr, np.minimum(1 - found.better, 1 - found.worse))


def posterior_by_trapezoids(gains, errors, client):
    """The distribution function of a client's gain on a fine grid, from the prior's weights: values, and the mass up to each; with a
    jump of no gain at 0."""
    widths = _grid(gains, errors)
    uniforms = [np.exp(_log_half(sign * gains, errors, widths)) for sign in (1, -1)]
    likelihood = np.column_stack([norm.pdf(gains, 0, errors), *uniforms])
    weights = _with_null(_weights(likelihood), likelihood)
    up, down = np.split(weights[1:], 2)
    positive = np.linspace(0, widths[-1], 2_000_001)[1:] - widths[-1] / 4_000_000  # middles of intervals, away from the edges
    step = positive[1] - positive[0]
    prior = [(part / widths) @ (positive <= widths[:, None]) for part in (down, up)]
    below, above = (p * norm.pdf(gains[client], sign * positive, errors[client]) * step for p, sign in zip(prior, (-1, 1), strict=True))
    null = weights[0] * norm.pdf(gains[client], 0, errors[client])
    mass = np.cumsum(np.concatenate([below[::-1], [null], above]))
    return np.concatenate([-positive[::-1], [0.0], positive]), mass / mass[-1]


@pytest.mark.parametrize("client", [0, 7, 20, 39])
def test_intervals_are_quantiles_of_the_posterior(client):
    draw = np.random.default_rng(3)
    truth = np.repeat([0.0, 0.4, -0.2, 1.0], 10)
    errors = np.tile([0.05, 0.3], 20)
    gains = truth + errors * draw.normal(size=40)
    found = shrink(gains, errors)
    values, mass = posterior_by_trapezoids(gains, errors, client)
    for quantile, share in ((found.low, 0.025), (found.high, 0.975)):
        assert quantile[client] == pytest.approx(values[np.searchsorted(mass, share)], abs=1e-5)


@given(GAINS)
def test_an_interval_is_beyond_zero_where_its_sign_is_sure_enough(clients):
    gains, errors = map(np.array, zip(*clients, strict=True))
    found, mirrored = shrink(gains, errors), shrink(-gains, errors)
    assert (found.low <= found.high).all()
    assert ((found.low > 0) == (found.better > 0.975)).all()
    assert ((found.high < 0) == (found.worse > 0.975)).all()
    np.testing.assert_allclose(found.low, -mirrored.high, atol=1e-7)


@given(GAINS)
def test_mirrored_gains_are_mirrored(clients):
    gains, errors = map(np.array, zip(*clients, strict=True))
    one, other = shrink(gains, errors), shrink(-gains, errors)
    np.testing.assert_allclose(one.better, other.worse, atol=1e-9)
    np.testing.assert_allclose(one.mean, -other.mean, atol=1e-9)


@given(GAINS, st.floats(0, 1), st.floats(0, 1))
def test_a_wider_margin_makes_fewer_better(clients, one, other):
    gains, errors = map(np.array, zip(*clients, strict=True))
    narrow, wide = (shrink(gains, errors, margin) for margin in sorted((one, other)))
    assert (wide.better <= narrow.better + 1e-9).all()
    assert (wide.worse <= narrow.worse + 1e-9).all()


def test_what_is_missing_is_left_out():
    found = shrink([1.0, np.nan], [0.1, np.nan])
    assert np.isnan(found.mean[1])
    assert found.sure[1] == 0
    assert found.better[0] == shrink([1.0], [0.1]).better[0] == found.share_better
    assert np.isnan(shrink([np.nan], [np.nan]).share_better)


@pytest.mark.parametrize(("gains", "errors", "margin"), [([1.0], [0.0], 0), ([1.0], [1.0, 2.0], 0), ([1.0], [1.0], -1)])
def test_refuses(gains, errors, margin):
    with pytest.raises(ValueError, match="must be"):
        shrink(gains, errors, margin)
