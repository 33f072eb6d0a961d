"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes, and how long it takes to make one, tells of the machine only. A test
# that never ends has pytest's time limit.
settings.register_profile("pbft", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("pbft")
