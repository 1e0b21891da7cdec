"""The hash of the code behind a declared function, used as code version of assets.

Dagster marks an asset stale when its code version changes. A computed hash cannot be forgotten, unlike a version that
is raised by hand.
"""

from ml_platform.data.code_dependencies import code_digest


def source_hash(function: str) -> str:
    """Return 12 hexadecimal digits that change when the code behind ``package.module:function`` does.

    The hash covers the function and all code of the project that it uses, at any depth and in any module; see
    :mod:`~ml_platform.data.code_dependencies`. Comments, docstrings, layout and other functions do not count.
    """
    return code_digest([function])[:12]
