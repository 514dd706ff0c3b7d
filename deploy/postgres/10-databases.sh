#!/bin/sh
# Runs once, on an empty volume: a role and a database each for Dagster, MLflow and the ledger, so that none can read
# or change what belongs to another.
set -eu

for name in dagster mlflow ledger; do
    case $name in
        dagster) password=$DAGSTER_DB_PASSWORD ;;
        mlflow) password=$MLFLOW_DB_PASSWORD ;;
        ledger) password=$LEDGER_DB_PASSWORD ;;
    esac
    psql --quiet --set ON_ERROR_STOP=1 --set name="$name" --set password="$password" \
        --username "$POSTGRES_USER" --dbname postgres <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
