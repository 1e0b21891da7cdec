"""The verbs that end a model, a dataset or a table, and the orphans of a home, for the command line."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ml_platform.errors import PlatformError
from ml_platform.steps.domain_removal import remember_domains
from ml_platform.steps.lifecycle import LifecycleStep
from ml_platform.steps.orphans import DeclaredNames, Orphan, orphans
from resources.home import Home
from resources.profiles import REPOSITORY

if TYPE_CHECKING:
    from ml_platform.components.project import Project


class ConfirmationError(PlatformError):
    """Raised when a verb would end something in use, and the person did not confirm it."""


def declared_names(project: "Project | None" = None) -> DeclaredNames:
    """Return the names that the project declares.

    Raises :class:`~ml_platform.components.project.DomainNotLoadedError` if a domain does not load, because its names
    are not known then.
    """
    from ml_platform.components.project import read_project

    project = project or read_project(REPOSITORY)
    project.require_all()
    datasets, views, models = (set(names) for names in _domains_by_area(project).values())
    return DeclaredNames(datasets=datasets, views=views, models=models)


def declared_domains(project: "Project") -> dict[str, str]:
    """Return the domain of each declaration of ``project``, by area and name like ``features/shops``."""
    return {
        f"{area}/{name}": domain for area, names in _domains_by_area(project).items() for name, domain in names.items()
    }


def _domains_by_area(project: "Project") -> dict[str, dict[str, str]]:
    """Return the domain of each dataset, view and model by name, by the area of their tables."""
    from ml_platform.components.dataset.component import Dataset
    from ml_platform.components.feature_view.component import FeatureView
    from ml_platform.components.model.component import Model

    return {
        "datasets": {each.name: each.domain for each in project.components(Dataset)},
        "features": {each.name: each.domain for each in project.components(FeatureView)},
        "models": {each.name: each.domain for each in project.components(Model)},
    }


def orphans_of(home: Home) -> list[Orphan]:
    """Return the orphans of ``home``; none while a domain does not load, because its names are not known."""
    from ml_platform.components.project import read_project
    from resources.state import open_state

    project, state = read_project(REPOSITORY), open_state(home)
    remember_domains(state, declared_domains(project))
    return [] if project.not_loaded else orphans(state, declared_names(project))


def run_steps(
    steps: Sequence[LifecycleStep], echo: Callable[[str], None], *, dry_run: bool, confirmed: bool, subject: str
) -> None:
    """Run ``steps`` one after the other and print each; a dry run only prints them.

    Raises :class:`ConfirmationError` for steps that are not ``confirmed``.
    """
    if not steps:
        echo(f"Nothing to do: {subject} has ended already.")
    elif dry_run:
        for step in steps:
            echo(f"would {step.text}")
    elif not confirmed:
        raise ConfirmationError(
            subject,
            expected="a confirmation",
            found=f"{len(steps)} steps that change or end something in use: {'; '.join(step.text for step in steps)}",
            fix="Add --yes to do it, or --dry-run to see the steps only.",
        )
    else:
        for step in steps:
            step.run()
            echo(f"done: {step.text}")
