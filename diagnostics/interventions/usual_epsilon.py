"""An epsilon as it usually is."""

from diagnostics.interventions.usual_settings import usual

USUAL_EPSILON = usual("usual-epsilon", ("eps",), "set epsilon to 1e-8")
