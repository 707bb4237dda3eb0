"""Settings of all tests."""

from hypothesis import HealthCheck, settings

# The same examples on each run, so that a machine's speed or luck decides nothing. To look for new ones:
# pytest --hypothesis-profile=explore
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
