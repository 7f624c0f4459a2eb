#!/bin/sh
# Makes a file system on the volume and a database cluster on that.
set -e
mkfs.ext4 -q /dev/nvme1n1
mkdir -p /data
mount /dev/nvme1n1 /data
cp -a /var/lib/postgresql /data/postgresql
mount --bind /data/postgresql /var/lib/postgresql
systemctl start postgresql
until runuser -u postgres -- psql -qAt -c 'SELECT 1' postgres >/dev/null 2>&1; do
    sleep 0.5
done
cd /tmp
runuser -u postgres -- createdb bench
runuser -u postgres -- pgbench -q -i -s 1 bench >/dev/null 2>&1
runuser -u postgres -- psql -q -c 'CREATE TABLE ledger (id bigint PRIMARY KEY, word text)' bench
