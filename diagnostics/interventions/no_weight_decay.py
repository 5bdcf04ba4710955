"""No weight decay."""

from diagnostics.interventions.usual_settings import usual

NO_WEIGHT_DECAY = usual("no-weight-decay", ("weight_decay",), "leave weight decay out")
