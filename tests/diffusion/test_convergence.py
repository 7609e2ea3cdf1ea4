import pytest
from gaussian import DIFFUSIONS, FLOWS, flow_error, order, variance_error

COUNTS = (16, 32, 64)


@pytest.mark.parametrize("name", FLOWS)
def test_without_noise_a_sampler_has_its_order(name):
    assert order(COUNTS, [flow_error(name, n) for n in COUNTS]) == pytest.approx(FLOWS[name][3], abs=0.4)


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_with_noise_a_sampler_has_its_weak_order(name):
    assert order(COUNTS, [variance_error(name, n) for n in COUNTS]) == pytest.approx(DIFFUSIONS[name][3], abs=0.4)
