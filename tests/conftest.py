"""Hypothesis without its clock: on a busy machine a slow example says nothing about the code."""

from hypothesis import HealthCheck, settings

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")
