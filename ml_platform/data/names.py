"""Names of datasets, feature views and models.

The full name of a declaration is `<domain>.<name>` in a domain with a namespace, and `<name>` in any other domain. All
that the platform stores has the full name: asset keys, tables, folders, registered models, decisions and addresses of
endpoints. Declarations and the command line also take `<domain>/<name>`.
"""

SHORT = r"[a-z][a-z0-9_]*"
FULL_NAME = rf"^({SHORT}\.)?{SHORT}$"
"""Pattern of a full name."""


def short_name(name: str) -> str:
    """Return ``name`` without its domain. Functions get their sources, and columns their prefix, by this name.

    >>> short_name("sales.orders"), short_name("flights")
    ('orders', 'flights')
    """
    return name.rpartition(".")[2]


def full_name(written: str) -> str:
    """Return the full name for a name on the command line.

    >>> full_name("sales/orders"), full_name("sales.orders"), full_name("flights")
    ('sales.orders', 'sales.orders', 'flights')
    """
    return written.replace("/", ".", 1)


def identifier(name: str) -> str:
    """Return ``name`` for the names of sensors, jobs and groups, in which Dagster allows no dot.

    >>> identifier("sales.orders"), identifier("flights")
    ('sales__orders', 'flights')
    """
    return name.replace(".", "__")
