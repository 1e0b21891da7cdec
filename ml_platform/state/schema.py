"""The tables of the state store, as SQLAlchemy metadata.

A change here needs a migration in `migrations/versions`; a test compares both.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

WHOLE = ""
"""Partition of a table without partitions."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

BigId = BigInteger().with_variant(Integer, "sqlite")
"""Type of generated ids: SQLite generates only ids of the type INTEGER."""

# The catalog of the lake.

lake_tables = Table(
    "lake_tables",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False, comment="Current version of the table, from 0."),
    Column("partitioned", Boolean, nullable=False),
    Column("published_version", BigInteger, comment="Version that the Delta log shows; null: none."),
    Column("published_commit", BigInteger, comment="Delta commit that shows it; null: the log must be compared."),
    Column("columns", LargeBinary, nullable=False, comment="An empty table of these columns, as Arrow IPC."),
)

lake_segments = Table(
    "lake_segments",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("table_name", Text, ForeignKey("lake_tables.name"), nullable=False),
    Column("partition", Text, nullable=False, comment="Empty for a table without partitions."),
    Column("version", BigInteger, nullable=False, comment="Version of the table that added the segment."),
    Column("replaced_in", BigInteger, comment="Version that removed it; null while it is current."),
    Column("replaced_at", Text, comment="ISO 8601, UTC."),
    Column("cleaned_at", Text, comment="When retention deleted its files; ISO 8601, UTC."),
    Column("stores_partition", Boolean, nullable=False, comment="Whether its files have the column `partition`."),
    Column("rows", BigInteger, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False, comment="Content hash of the stored rows."),
    Column("digest", Text, nullable=False, comment="Content digest; compaction keeps the sum of those it merges."),
    Column("written_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Index("ix_lake_segments_current", "table_name", "replaced_in", "partition"),
    Index("ix_lake_segments_partition", "table_name", "partition", "version"),
    Index("ix_lake_segments_version", "table_name", "version"),
)

lake_files = Table(
    "lake_files",
    metadata,
    Column("segment_id", BigId, ForeignKey("lake_segments.id", ondelete="CASCADE"), primary_key=True),
    Column("path", Text, primary_key=True, comment="Relative to the folder of the table."),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False, comment="Digest of the bytes of the file."),
)

lake_pins = Table(
    "lake_pins",
    metadata,
    Column("table_name", Text, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("holder", Text, primary_key=True, comment="Reason why the version is kept, for example model/<digest>."),
)

# Landed files, and how far they were read.

landed_files = Table(
    "landed_files",
    metadata,
    Column("dataset", Text, primary_key=True),
    Column("name", Text, primary_key=True, comment="Name of the file in the landing folder of the dataset."),
    Column("partition", Text, nullable=False, comment="Empty for a dataset without partitions."),
    Column("size_bytes", BigInteger, nullable=False),
    Column("modified_ns", BigInteger, nullable=False, comment="Modification time, nanoseconds since 1970; 0: unknown."),
    Column("inode", BigInteger, nullable=False, comment="Number of the file, another one when it was replaced."),
    Column("sha256", Text, nullable=False),
    Column("landed_at", Text, nullable=False, comment="When the platform first saw this content; ISO 8601, UTC."),
    Column("requested_sha256", Text, comment="Content for which a run was last requested."),
    Column(
        "requested_tick", BigInteger, comment="Sensor tick of that request; it counts once Dagster stored the tick."
    ),
    Index("ix_landed_files_partition", "dataset", "partition"),
)

contract_results = Table(
    "contract_results",
    metadata,
    Column("dataset", Text, primary_key=True),
    Column("partition", Text, primary_key=True, comment="Empty for a dataset without partitions."),
    Column(
        "passed_digest", Text, comment="Content digest of the rows that were last published after all checks passed."
    ),
    Column("passed_landed_sha256", Text, comment="Landed file of those rows."),
    Column("passed_at", Text, comment="ISO 8601, UTC."),
    Column("failed_check", Text, comment="Check that has failed since; null: none."),
    Column("failed_landed_sha256", Text, comment="Landed file that broke the contract; null: no file."),
    Column("failed_at", Text, comment="ISO 8601, UTC."),
    Index("ix_contract_results_failed_check", "failed_check"),
)

landing_profiles = Table(
    "landing_profiles",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("dataset", Text, nullable=False),
    Column("partition", Text, nullable=False, comment="Empty for a dataset without partitions."),
    Column("content", Text, comment="Content digest of the published rows; null: they were not published."),
    Column("landed_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("state", Text, nullable=False, comment="as usual, not judged, info, warning or critical."),
    Column("reason", Text, comment="Why the partition could not be judged; null: it was."),
    Column("profile", Text, nullable=False, comment="JSON."),
    Column("findings", Text, nullable=False, comment="JSON: list of findings."),
    Index("ix_landing_profiles_dataset_partition_id", "dataset", "partition", "id"),
    Index("ix_landing_profiles_dataset_id", "dataset", "id"),
)

TABLES_OF_DATASETS = (landed_files, contract_results, landing_profiles)
"""Tables whose column `dataset` names a dataset: they follow its rename, and end with it."""

cursors = Table(
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False, comment="JSON."),
    Column("changed_at", Text, nullable=False, comment="ISO 8601, UTC."),
)

joined_labels = Table(
    "joined_labels",
    metadata,
    Column("model", Text, primary_key=True),
    Column("partition", Text, primary_key=True, comment="Partition of the training set."),
    Column("digest", Text, nullable=False, comment="Digest of the partition and of the identity that was joined."),
    Column("labels_digest", Text, nullable=False, comment="Content digest of the labels that the outcomes contain."),
    Column("first_predict_at", Text, comment="Earliest prediction time of its examples; ISO 8601, UTC."),
    Column("last_predict_at", Text, comment="Latest prediction time of its examples; ISO 8601, UTC."),
    Column("next_known_at", Text, comment="When its next label becomes known; null: all are. ISO 8601, UTC."),
)

prediction_days = Table(
    "prediction_days",
    metadata,
    Column("model", Text, primary_key=True),
    Column("day", Text, primary_key=True, comment="Partition of the predictions: UTC day of logged_at."),
    Column("predict_day", Text, primary_key=True, comment="UTC day of predict_at."),
    Column("predictions", BigInteger, nullable=False, comment="Predictions stored for both days."),
    Column("outcomes", BigInteger, nullable=False, comment="Facts about their outcomes, corrections included."),
    Column("labelled", BigInteger, nullable=False, comment="Predictions of which the outcome is known."),
    Index("ix_prediction_days_model_predict_day", "model", "predict_day"),
)

performance_periods = Table(
    "performance_periods",
    metadata,
    Column("model", Text, primary_key=True),
    Column("start", Text, primary_key=True, comment="First instant of the period; ISO 8601, UTC."),
    Column("version", Text, primary_key=True, comment="Version of the model."),
    Column("digest", Text, nullable=False, comment="Digest of the outcomes and settings that were measured."),
    Column("result", Text, nullable=False, comment="JSON."),
)

# Serving.

desired_states = Table(
    "desired_states",
    metadata,
    Column("model", Text, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("state", Text, nullable=False, comment="JSON."),
    Column("changed_at", Text, nullable=False, comment="ISO 8601, UTC."),
)

verified_bentos = Table(
    "verified_bentos",
    metadata,
    Column("model", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("record", Text, nullable=False, comment="JSON."),
)

clients = Table(
    "clients",
    metadata,
    Column("name", Text, primary_key=True),
    Column("requests_per_second", BigInteger, nullable=False),
    Column("burst", BigInteger, nullable=False, comment="Requests at once after a pause."),
    Column("requests_per_day", BigInteger, comment="Quota of a day in UTC; null: none."),
    Column("concurrency", BigInteger, nullable=False, comment="Requests under way in one service."),
    Column("models", Text, comment="JSON: models that it may ask; null: all."),
)

client_keys = Table(
    "client_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client", Text, ForeignKey("clients.name"), nullable=False),
    Column("secret_sha1", Text, nullable=False, comment="SHA-1 of the random secret, Base64."),
    Column("created_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("valid_until", Text, comment="End after a rotation; ISO 8601, UTC."),
    Column("revoked_at", Text, comment="ISO 8601, UTC."),
)

# Decisions.

audit_records = Table(
    "audit_records",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Text, nullable=False, comment="ISO 8601."),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("model", Text, comment="Copy of facts.model, for the index."),
    Column("facts", Text, nullable=False, comment="JSON."),
    Column("previous", Text, nullable=False, comment="Digest of the record before."),
    Column("digest", Text, nullable=False),
    Index("ix_audit_records_kind_model_sequence", "kind", "model", "sequence"),
)

audit_head = Table(
    "audit_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, comment="Always 1."),
    Column("sequence", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False, comment="Audit record of the verdict; a clock may go back."),
    Column("model", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("candidate", Text, nullable=False, comment="Content digest of the version."),
    Column("evidence", Text, nullable=False, comment="Digest of the evidence."),
    Column("verdict", Text, nullable=False, comment="JSON, as hashed."),
    Column("metrics", Text, nullable=False, comment="JSON: metrics by name."),
    Column("recorded_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Index("ix_verdicts_model_partition", "model", "partition", "sequence"),
    Index("ix_verdicts_model_candidate", "model", "candidate", "sequence"),
    Index("ix_verdicts_model_sequence", "model", "sequence", "partition"),
)

retraining_decisions = Table(
    "retraining_decisions",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("model", Text, nullable=False),
    Column("window", Text, nullable=False, comment="Partition of the model on which was decided."),
    Column("inputs", Text, nullable=False, comment="Digest of its training sets and of changed code."),
    Column("policy", Text, nullable=False, comment="Digest of the policy; empty: none is declared."),
    Column("outcome", Text, nullable=False, comment="Digest of the decision and of each rule's effect."),
    Column("retrain", Boolean, nullable=False),
    Column("because", Text, nullable=False, comment="JSON: findings of the rules."),
    Column("data_time", Text, nullable=False, comment="Data clock: end of the window; ISO 8601, UTC."),
    Column("decided_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("state", Text, nullable=False, comment="Of its training: declined, requested, running, …"),
    Column("run_id", Text, comment="Last run of Dagster that it started."),
    Column("runs", BigInteger, nullable=False, comment="Runs that it started."),
    Column("failures", BigInteger, nullable=False, comment="Runs that failed."),
    Column("attempts", BigInteger, nullable=False, comment="Runs that it may start."),
    Column("run_seconds", Float, nullable=False, comment="Duration of all its runs that have ended."),
    UniqueConstraint(
        *("model", "window", "inputs", "policy", "outcome"), name="uq_retraining_decisions_model_window_outcome"
    ),
    Index("ix_retraining_decisions_model_data_time", "model", "data_time"),
    Index("ix_retraining_decisions_model_retrain_window", "model", "retrain", "window"),
    Index("ix_retraining_decisions_model_id", "model", "id"),
    Index("ix_retraining_decisions_model_retrain_id", "model", "retrain", "id"),
)

# Costs.

_USED = (
    ("wall_seconds", Float(), "Elapsed time."),
    ("cpu_seconds", Float(), "Processor time of the process and its ended children, summed over cores."),
    ("gpu_seconds", Float(), "Time in which kernels ran, summed over accelerators."),
    ("peak_memory_bytes", BigInteger(), "Highest resident memory of the process."),
    ("bytes_written", BigInteger(), "Bytes that the process sent to storage."),
    ("money", Float(), "Cost by the prices of that time, in the currency of params.yaml."),
)
"""Columns of the use of a step: name, type and meaning."""

step_costs = Table(
    "step_costs",
    metadata,
    Column("run_id", Text, primary_key=True, comment="Run of Dagster."),
    Column("asset", Text, primary_key=True, comment="Key of the asset, or of the asset with its check after a colon."),
    Column("attempt", Integer, primary_key=True, autoincrement=False, comment="From 0."),
    Column("day", Text, nullable=False, comment="UTC day on which the step ended."),
    Column("domain", Text, nullable=False, comment="Empty for an asset of no domain."),
    Column("model", Text, nullable=False, comment="Empty for an asset of no model."),
    Column("failed", Boolean, nullable=False),
    Column("ended_at", Text, nullable=False, comment="ISO 8601, UTC."),
    *(Column(name, kind, nullable=False, comment=comment) for name, kind, comment in _USED),
    Index("ix_step_costs_day", "day"),
)

cost_days = Table(
    "cost_days",
    metadata,
    Column("day", Text, primary_key=True, comment="UTC day on which the steps ended."),
    Column("domain", Text, primary_key=True, comment="Empty for an asset of no domain."),
    Column("asset", Text, primary_key=True),
    Column("model", Text, nullable=False, comment="Empty for an asset of no model."),
    Column("steps", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False, comment="Steps that failed."),
    *(Column(name, kind, nullable=False, comment=comment) for name, kind, comment in _USED),
    Index("ix_cost_days_model_day", "model", "day"),
    Index("ix_cost_days_asset_day", "asset", "day"),
)

# Alerts.

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False, comment="Its asset, check, model, schedule or service."),
    Column("what", Text, nullable=False),
    Column("severity", Text, nullable=False, comment="info, warning or critical."),
    Column("domain", Text, nullable=False, comment="Empty for the platform itself."),
    Column("link", Text, nullable=False),
    Column("since", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("opened_at", Text, nullable=False, comment="First evaluation that found it; ISO 8601, UTC."),
    Column("resolved_at", Text, comment="ISO 8601, UTC; null while it is open."),
    Column("acknowledged_at", Text, comment="ISO 8601, UTC."),
    Column("acknowledged_by", Text, nullable=False),
    Column("note", Text, nullable=False, comment="Of the person who acknowledged it."),
    Index("ix_alerts_resolved_at", "resolved_at"),
)

alert_notices = Table(
    "alert_notices",
    metadata,
    Column("alert_id", BigId, ForeignKey("alerts.id", ondelete="CASCADE"), primary_key=True),
    Column("route", Text, primary_key=True),
    Column("severity", Text, nullable=False, comment="Severity that was sent last."),
    Column("first_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("last_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("escalated_at", Text, comment="ISO 8601, UTC."),
    Column("receivers", Text, nullable=False, comment="JSON: receivers that get the recovery."),
)

alert_messages = Table(
    "alert_messages",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("receiver", Text, nullable=False),
    Column("key", Text, nullable=False, comment="Equal for a message that is sent twice."),
    Column("body", Text, nullable=False, comment="JSON."),
    Column("created_at", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("attempts", BigInteger, nullable=False),
    Column("next_at", Text, nullable=False, comment="Earliest next attempt; ISO 8601, UTC."),
    Column("problem", Text, nullable=False, comment="Of the last attempt; empty: none."),
    UniqueConstraint("key"),
)

alert_silences = Table(
    "alert_silences",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False, comment="Empty: all."),
    Column("subject", Text, nullable=False, comment="With * for any characters; empty: all."),
    Column("until", Text, nullable=False, comment="ISO 8601, UTC."),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Text, nullable=False, comment="ISO 8601, UTC."),
)
