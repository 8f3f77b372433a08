"""Editing photographs by the folder: what `edit.py` does once its flags are read.

`planning`        which files are edited, and what their results are called
`shots`           a photograph read, and the faces in it cropped
`running`         batches of faces through the model, one photograph's results after the other
`results`         what is written of a photograph
`sheets`          what pages show of every face
`manifest`        what was done, so that it can be done again, or gone on with
`contact_sheet`   many small pictures on a page
"""

from l2sae_jax.batch_editing.planning import Plan, plan
from l2sae_jax.batch_editing.running import run
from l2sae_jax.batch_editing.shots import Cropping

__all__ = ["Cropping", "Plan", "plan", "run"]
