"""The fields of a model that its prediction log hides, with the key of the home."""

import os

from ml_platform.data.pseudonyms import PseudonymKey, pseudonym_key
from ml_platform.monitoring.hashed_fields import HashedFields
from ml_platform.steps.model import BoundModel
from resources.home import Home


def hashed_fields_of(model: BoundModel, home: Home) -> HashedFields | None:
    """Return the request fields of ``model`` that are logged as pseudonyms; None without any.

    The key is made when there is none. Raises :class:`~ml_platform.data.pseudonyms.PseudonymKeyError` for one that
    cannot be used.
    """
    dtypes = model.contract.hashed_fields
    return HashedFields(home_key(home), dtypes) if dtypes else None


def home_key(home: Home) -> PseudonymKey:
    """Return the key of pseudonyms in the environment or in ``home``, where it is made when there is none."""
    return pseudonym_key(home.pii_key, os.environ)
