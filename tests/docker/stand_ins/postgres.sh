# What the entry point of the postgres image does with the variables that docker/compose.yaml gives it.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
data=/var/lib/postgresql/data/pgdata
mkdir -p "$data" /var/run/postgresql && chown -R postgres /var/lib/postgresql/data /var/run/postgresql
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -e "$data/PG_VERSION" ]; then
    install -m 600 -o postgres "$POSTGRES_PASSWORD_FILE" /tmp/password
    as_postgres "$bin/initdb" --pgdata="$data" --username="$POSTGRES_USER" --pwfile=/tmp/password --auth=scram-sha-256 \
        --encoding=UTF8 --no-locale --no-sync
    rm /tmp/password
    echo 'host all all all scram-sha-256' >>"$data/pg_hba.conf"
    echo "local all all trust" >"$data/pg_hba.local" && cat "$data/pg_hba.conf" >>"$data/pg_hba.local"
    as_postgres cp "$data/pg_hba.local" "$data/pg_hba.conf"
    as_postgres "$bin/pg_ctl" --pgdata="$data" --wait --options="-h ''" start
    as_postgres "$bin/createdb" --username="$POSTGRES_USER" "$POSTGRES_DB" || true
    as_postgres "$bin/pg_ctl" --pgdata="$data" --wait stop
fi
export PATH="$bin:$PATH"
exec setpriv --reuid=postgres --regid=postgres --clear-groups "$bin/postgres" -D "$data" -h '*'
