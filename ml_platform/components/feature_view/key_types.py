"""The types of a view's keys: as declared in key_types, or as in the contracts of the datasets that the view reads."""

from collections.abc import Mapping

from ml_platform.components.dataset.component import Dataset
from ml_platform.components.declaration import Declaration
from ml_platform.errors import listed
from ml_platform.features.key_types import KEY_DTYPES, KeyType
from ml_platform.features.view import FeatureView

KEY_TYPES_OF_COLUMNS: Mapping[str, KeyType] = {"string": "string", "integer": "int", "boolean": "bool"}
"""Type of a contract's column → type of a key in it."""


def declared_key_types(
    view: FeatureView, datasets: Mapping[str, Dataset], declaration: Declaration
) -> dict[str, KeyType]:
    """Return the type of each key of a stored view, which ``declaration`` declares.

    Raises :class:`~ml_platform.components.declaration.DeclarationError`, with file and line, for a key without a
    declared type, with two types, or with a type that no key can have.
    """
    return {name: view.key_types.get(name) or _contract_type(view, name, datasets, declaration) for name in view.entity}


def _contract_type(view: FeatureView, key: str, datasets: Mapping[str, Dataset], declaration: Declaration) -> KeyType:
    found = {
        f"'{rule.type}' in '{source.dataset}'": KEY_TYPES_OF_COLUMNS.get(rule.type)
        for source in view.sources
        if source.dataset in datasets
        for rule in datasets[source.dataset].contract.columns
        if rule.name == key
    }
    key_types = set(found.values())
    if len(key_types) == 1 and (key_type := key_types.pop()) is not None:
        return key_type
    raise declaration.error_at(
        ["entity", view.entity.index(key)],
        expected=f"one type ({listed(KEY_DTYPES)}) of the key '{key}'",
        found=", ".join(found) or f"no column of that name in {listed([s.dataset for s in view.sources])}",
        fix=f"Declare it, for example key_types: {{{key}: string}}; the view's function must return that type.",
    )
