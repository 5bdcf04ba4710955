"""Pictures of a diagnosis: small pure functions from plain data to matplotlib figures, in this folder only.

A function returns None where its data is not there. What they say is read off the diagnosis; nothing is measured here.
"""

from diagnostics.diagnosis import Diagnosis
from experiments.pictures.curves import (
    band,
    before_after,
    fresh_curves,
    fresh_picture,
    loss_curves,
    one_batch_curves,
    one_batch_picture,
)
from experiments.pictures.drawing import BLUE, INK, ORANGE, VERMILION, Curves, Picture, png, svg
from experiments.pictures.measured import by_module, influence, influence_picture, merged, module_pictures
from experiments.pictures.milestones import milestone_rows, milestones_picture
from experiments.pictures.repairs import (
    STRONG,
    PathRow,
    SwitchRow,
    path_picture,
    path_rows,
    repair_path,
    shade,
    switch_picture,
    switch_rows,
    switch_table,
)
from experiments.pictures.standing import apart, standing_loss, standing_picture

__all__ = [
    "BLUE",
    "INK",
    "ORANGE",
    "STRONG",
    "VERMILION",
    "Curves",
    "PathRow",
    "Picture",
    "SwitchRow",
    "apart",
    "band",
    "before_after",
    "by_module",
    "fresh_curves",
    "influence",
    "loss_curves",
    "merged",
    "milestone_rows",
    "one_batch_curves",
    "path_rows",
    "pictures",
    "png",
    "repair_path",
    "shade",
    "standing_loss",
    "svg",
    "switch_rows",
    "switch_table",
]


def pictures(diagnosis: Diagnosis) -> tuple[Picture, ...]:
    """Every picture whose data this diagnosis has, in the order in which a report shows them."""
    seeds = f"seeds {', '.join(map(str, diagnosis.seeds))}"
    drawn = (
        standing_picture(diagnosis),
        one_batch_picture(diagnosis, seeds),
        switch_picture(diagnosis, seeds),
        path_picture(diagnosis, seeds),
        milestones_picture(diagnosis, seeds),
        fresh_picture(diagnosis, seeds),
        influence_picture(diagnosis),
        *module_pictures(diagnosis),
    )
    return tuple(picture for picture in drawn if picture is not None)
