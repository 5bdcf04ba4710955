"""Momentum and betas as they usually are."""

from diagnostics.interventions.usual_settings import usual

USUAL_MOMENTUM = usual("usual-momentum", ("betas", "momentum", "alpha"), "set momentum and betas to 0.9 and 0.999")
