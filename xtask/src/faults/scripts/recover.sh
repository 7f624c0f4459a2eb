#!/bin/sh
# After a crash: mounts the volume, which replays its journal, and starts the database, which replays its own.
set -e
mkdir -p /data
mount /dev/nvme1n1 /data
mount --bind /data/postgresql /var/lib/postgresql
systemctl start postgresql
until runuser -u postgres -- psql -qAt -c 'SELECT 1' bench >/dev/null 2>&1; do
    sleep 0.5
done
