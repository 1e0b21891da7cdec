"""The asset `evaluation`: the verdict on a window's candidate, with each gate as a check.

Every verdict is a result, so a gate that does not pass warns and stops nothing. Promotion reads the recorded verdict,
and the model card is written for each.
"""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from pydantic import Field

from ml_platform.components.code_record import code_metadata, record_code
from ml_platform.components.materializations import COVERED_CODE
from ml_platform.components.metadata import inline_image, records_table
from ml_platform.components.metered import metered
from ml_platform.components.model.evaluation_page import summary
from ml_platform.components.model.model_assets import ModelAssets
from ml_platform.components.stores import open_stores
from resources.addresses import stored_address
from resources.dagster_home import HomeResource
from resources.isolated_steps import imports_tag
from resources.lake import LakeResource
from resources.mlflow import MlflowResource
from resources.online_store import OnlineStoreResource

ITSELF = "Not fitted: the model itself has request features only."
"""Reason why a model has no request-only baseline."""


class EvaluationConfig(dg.Config):
    """Which candidates to judge; the sensor of waiting candidates sets it."""

    only_waiting: bool = Field(
        default=False,
        description="Only judge a candidate on HOLD again, on one more window; fail if it does not wait any more.",
    )


def evaluation(model: ModelAssets) -> dg.AssetsDefinition:
    """Return `<model>/evaluation`: the verdict on the window's candidate, with each gate as a check."""
    key = model.key("evaluation")

    @dg.asset(
        key=key,
        description=(
            "Verdict on the window's candidate: PROMOTE, HOLD or REJECT, with the numbers of every gate. Candidate, "
            "champion and baselines are scored on the same rows of the window; the candidate was not fitted, tuned or "
            "calibrated on them. A candidate on HOLD is judged again on the rows of each window that closes later, and "
            "all its windows count together. The candidate's bento is built and load-tested here, and reused after a "
            "promotion."
        ),
        partitions_def=model.partitions_def,
        deps=[*model.candidate_keys.values(), model.key("training_set")],
        code_version=model.evaluation_code_version,
        op_tags=imports_tag("mlflow"),
        metadata={COVERED_CODE: code_metadata(model.evaluation_functions, model.evaluation_settings)},
        check_specs=[
            dg.AssetCheckSpec(gate.name, asset=key, description=(gate.__doc__ or "").split("\n")[0])
            for gate in model.gates
        ],
        **model.shared_arguments("python"),
    )
    @metered
    def _evaluation(
        context: dg.AssetExecutionContext,
        config: EvaluationConfig,
        lake: LakeResource,
        mlflow: MlflowResource,
        home: HomeResource,
        online_store: OnlineStoreResource,
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        from ml_platform.evaluation.look import data_length, looks_table
        from ml_platform.evaluation.plots import improvement_plot, reliability_plot
        from ml_platform.evaluation.reliability import reliability_bins
        from ml_platform.steps.freshness import curve_table
        from ml_platform.steps.model_card import card_page
        from ml_platform.steps.rejudgement import judge_candidate

        stores = open_stores(home, lake, mlflow, online_store)
        record_code(context, stores.state)
        key_of_run = model.key_of_run(context, stores.lake)
        with mlflow.run(context, model.name) as run:
            result = judge_candidate(model, key_of_run, stores, now=datetime.now(UTC), only_waiting=config.only_waiting)
            run.set_tags({"verdict": result.verdict.decision, "candidate_run": result.version.run_id})
            run.log_metrics(result.metric_values)
        # MLflow compares candidates by their own runs, so the results are logged there too.
        mlflow.tracking.client.set_tag(result.version.run_id, "verdict", result.verdict.decision)
        for name, value in result.metric_values.items():
            mlflow.tracking.client.log_metric(result.version.run_id, name, value)
        other_metrics = {
            f"{line.metric}_{name}": value for line in result.metrics for name, value in line.others.items()
        }
        plots: dict[str, Any] = {}
        evidence = result.evidence
        for name, each in evidence.task.probabilities(evidence.label, evidence.predictions["candidate"]).items():
            plot = inline_image(reliability_plot(reliability_bins(*each)))
            if evidence.task.output_names:
                plots[f"reliability_{name}"] = plot
            else:
                plots["reliability"] = plot
        if "champion" in result.evidence.predictions:
            plots["improvement"] = inline_image(improvement_plot(result.metrics, "champion"))
        run_page, card = mlflow.link(model.name, result.version.run_id), home.link(card_page(model, key_of_run, stores))
        links = {
            "Model card": str(card.url),
            "MLflow run": str(run_page.url),
            "Endpoint": f"{stored_address('gateway')}/v1/{model.name}/predict",
        }
        yield dg.MaterializeResult(
            metadata={
                "summary": summary(result, links),
                **plots,
                "version": result.version.version,
                "mlflow_run": run_page,
                "decision": result.verdict.decision,
                "reasons": result.verdict.reasons,
                "labels_needed": result.verdict.labels_needed or 0,
                **({"data_needed": data_length(days)} if (days := result.verdict.days_needed) else {}),
                **result.metric_values,
                **other_metrics,
                "rows": len(result.evidence.label),
                "bento_latency_p99_ms": result.evidence.system_checks.latency_p99_ms or 0.0,
                "bento_size_bytes": result.package.size_bytes,
                "verdict": result.verdict.digest,
                **({"request_only_baseline": ITSELF} if model.is_request_only else {}),
                "looks": records_table(looks_table(result.verdict.looks)),
                "freshness": records_table(curve_table(result.metric_values, model.arrivals)),
                "weakest_slices": records_table(map(asdict, result.slices), ("column", "value", "rows", "score")),
            },
            data_version=dg.DataVersion(result.verdict.digest),
        )
        declared = {gate.name for gate in model.gates}
        # The result about own features is no declared gate; it stands in the summary and the reasons.
        for gate in (each for each in result.verdict.gates if each.name in declared):
            yield dg.AssetCheckResult(
                check_name=gate.name,
                passed=gate.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=gate.reason,
                metadata={name: value for name, value in gate.numbers.items() if value is not None},
            )

    return _evaluation
