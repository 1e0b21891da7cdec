"""The asset `<domain>/not_loaded`, which shows in the UI why a domain is left out."""

import re
from collections.abc import Mapping
from typing import Any

import dagster as dg

NOT_LOADED = "not_loaded"
FIX = "Correct the file, then reload the definitions. The other domains are not affected."


def not_loaded_definitions(errors: Mapping[str, str]) -> dg.Definitions:
    """Return one asset without data for each domain of ``errors`` (texts by domain), with a check that fails."""
    return dg.Definitions(
        assets=[_asset(domain, text) for domain, text in errors.items()],
        asset_checks=[_check(domain, text) for domain, text in errors.items()],
    )


def _asset(domain: str, text: str) -> dg.AssetSpec:
    errors = "\n".join(f"- `{line}`" for line in text.splitlines())
    return dg.AssetSpec(
        dg.AssetKey([domain, NOT_LOADED]),
        description=f"**The domain `{domain}` does not load**, so its assets are absent.\n\n{errors}\n\n{FIX}",
        group_name=_group(domain),
        metadata={"error": dg.MetadataValue.text(text)},
        tags={"domain": _group(domain)},
        kinds={"error"},
    )


def _check(domain: str, text: str) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=dg.AssetKey([domain, NOT_LOADED]), name="domain_loads", description=FIX)
    def domain_loads() -> dg.AssetCheckResult:
        metadata: dict[str, Any] = {"error": text}
        return dg.AssetCheckResult(passed=False, metadata=metadata, description=text)

    return domain_loads


def _group(domain: str) -> str:
    return re.sub(r"\W", "_", domain, flags=re.ASCII)
