"""A small home with two versions of a model, of which the later one is champion."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ml_platform.components import loading
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.registry.models import CHAMPION
from ml_platform.registry.promotion import append_champion_record, champion_facts
from ml_platform_tests.components.delivery_home import PlatformFixture, open_platform
from ml_platform_tests.components.delivery_model import VIEWS, delivery_model

PROMOTED_AT = datetime(2013, 5, 1, 8, tzinfo=UTC)


def make_champion(platform: PlatformFixture, name: str, version: int) -> None:
    """Record ``version`` as champion, without gates, and set the alias in MLflow."""
    registry, audit = platform.mlflow.models, platform.stores.audit
    chosen = registry.version(name, version)
    facts = champion_facts(
        chosen,
        action="promote",
        previous=None,
        manifest=registry.manifest(chosen).model_dump(),
        verdict=None,
        approved_by=(),
        reason="It is the later one.",
    )
    append_champion_record(audit, facts, None, decided_by="ada", at=PROMOTED_AT)
    registry.set_alias(name, CHAMPION, version)


def declared_model(name: str) -> ModelAssets:
    """Return the delivery model by any name, in place of the declarations of the repository."""
    return delivery_model(name=name)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformFixture]:
    with open_platform(tmp_path_factory.mktemp("session") / "home") as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "bound_model", declared_model)
        patch.setattr(loading, "declared_views", lambda: VIEWS)
        opened.land()
        for month in ("2013-03", "2013-04"):
            opened.make(delivery_model(), month)
        make_champion(opened, "late", 2)
        opened.stores.state.close()
        yield opened
