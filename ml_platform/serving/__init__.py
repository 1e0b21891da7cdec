"""Packaging of promoted models as bentos, their endpoint behind a gateway, and their rollout.

:func:`load` predicts with a served model in this process, without the endpoint.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_platform.serving.in_process import ServedModel


def load(
    model: str, home: Path | str | None = None, version: str | int | None = None, *, log: bool = False
) -> "ServedModel":
    """Return the served version of ``model`` for predictions in this process, for a notebook or a batch.

    ``home`` is the folder with the state of the platform; None: ``$ML_PLATFORM_HOME``, or ``.ml_platform`` here.
    ``version`` is another version that was packaged once. With ``log``, its answers go to the prediction log. See
    :meth:`.in_process.ServedModel.load` for the errors.
    """
    from ml_platform.serving.in_process import ServedModel

    return ServedModel.load(model, home, version, log=log)
