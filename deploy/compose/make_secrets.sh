#!/bin/sh
# Writes a random secret into each file below deploy/compose/secrets/ that does not exist yet.
set -eu
umask 077
folder=$(dirname "$0")/secrets
mkdir -p "$folder"
for name in postgres_password object_store_key object_store_secret valkey_password; do
    [ -s "$folder/$name" ] || od -An -N24 -tx1 /dev/urandom | tr -d ' \n' > "$folder/$name"
done
# The containers run as another user.
chmod 755 "$folder"
chmod 444 "$folder"/*
