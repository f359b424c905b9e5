#!/bin/sh
# Makes the secrets that compose.yaml reads, once: docker/new-secrets.sh [FOLDER]. The folder is for its owner alone; the files
# in it are readable, since a container reads them as another user.
set -eu
umask 022  # whatever the caller's: a container that may not read them does not start
folder=${1:-$(dirname "$0")/secrets}
if [ -e "$folder" ]; then
    echo "$folder is there already; remove it to make new secrets, which old volumes do not know" >&2
    exit 1
fi
random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }
mkdir -p "$folder"
chmod 700 "$folder"
for name in ray_token postgres_password grafana_password; do
    random >"$folder/$name"
done
key=kd-hpo secret=$(random)
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" >"$folder/s3_credentials"
printf '{"identities": [{"name": "kd-hpo", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], "actions": ["Admin"]}]}\n' \
    "$key" "$secret" >"$folder/s3_config"
