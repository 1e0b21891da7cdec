-- Postgres runs this once, on an empty volume. The database ml_platform comes from POSTGRES_DB.
CREATE DATABASE dagster;
CREATE DATABASE mlflow;
CREATE DATABASE studies;
