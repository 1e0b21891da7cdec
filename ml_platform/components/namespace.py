"""The namespace of a domain: full names for what its declarations name.

A domain is a folder directly below `assets/`. Its `domain.yaml`, which is optional, may give it a namespace::

    namespace: true

Then a name in its declarations means one of its own, and other domains name it as `<domain>/<name>`. A domain has a
namespace from its first run on, because what it has stored keeps its names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ml_platform.data.domains import DOMAIN_FILE, DomainError, DomainSettings, read_domain
from ml_platform.data.names import short_name
from ml_platform.errors import did_you_mean, listed


@dataclass(frozen=True)
class Namespace:
    """The names of the domain ``domain``, a folder of ``root``."""

    root: Path
    domain: str
    settings: DomainSettings

    @classmethod
    def at(cls, path: Path, root: Path) -> "Namespace":
        """Return the namespace of the declarations in ``path``, a folder or file below ``root``."""
        domain = Path(path.relative_to(root).parts[0]).stem if path != root else ""
        return cls(root, domain, read_domain(root / domain))

    def own(self, name: str) -> str:
        """Return the full name of a declaration here; raises :class:`DomainError` if ``name`` has a domain."""
        if short_name(name) != name:
            raise DomainError(
                f"Name '{name}'",
                expected="a name without a domain",
                found=f"the domain '{name.partition('.')[0]}'",
                fix=f"Write '{short_name(name)}', and declare 'namespace: true' in {self.domain}/{DOMAIN_FILE}.",
            )
        return f"{self.domain}.{name}" if self.settings.namespace else name

    def reference(self, written: str) -> str:
        """Return the full name that ``written`` means here.

        A name without a slash is of this domain, if it has a namespace. Raises :class:`DomainError` for a domain that
        does not exist.
        """
        domain, slash, name = written.rpartition("/")
        if not slash:
            return self.own(written)
        known = [path.name for path in self.root.iterdir() if path.is_dir() and path.name[0] not in "._"]
        if domain not in known:
            raise DomainError(
                f"Name '{written}'",
                expected=f"a domain of {listed(sorted(known), 20)} before the slash",
                found=f"'{domain}'",
                fix=f"Correct the domain.{did_you_mean(domain, known)}",
            )
        return f"{domain}.{name}" if read_domain(self.root / domain).namespace else name

    def references(self, written: Sequence[str]) -> list[str]:
        """Return the full names of ``written``, the arguments of one function.

        Raises :class:`DomainError` when two of them have one short name, by which the function gets them.
        """
        names = [self.reference(each) for each in written]
        short = [short_name(name) for name in names]
        if twice := sorted({name for name in short if short.count(name) > 1 and len(set(names)) == len(names)}):
            raise DomainError(
                f"Names {listed(written, 20)}",
                expected="different names behind the slash, because functions and columns have these",
                found=f"{listed(twice)} of two domains",
                fix="Copy one of them under another name by a dataset or view of your own.",
            )
        return names
