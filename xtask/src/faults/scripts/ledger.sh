#!/bin/sh
# Commits one transaction after the other, numbered from $1, and tells each one after its commit, with the time.
. /root/common.sh
number=$1
(
    while :; do
        if [ -e /run/hold ]; then
            echo "SELECT 'guest: held ledger';"
            while [ -e /run/hold ]; do
                sleep 0.2
            done
        fi
        echo "INSERT INTO ledger VALUES ($number, repeat('x', 200)) RETURNING" \
            "'guest: ledger ' || id || ' ' || extract(epoch from clock_timestamp());"
        number=$((number + 1))
        sleep 0.1
    done
) | (cd /tmp && runuser -u postgres -- psql -qAt -v ON_ERROR_STOP=1 bench >/dev/ttyS0 2>/run/ledger.err)
say "error: the ledger ended: $(head -n 2 /run/ledger.err | tr '\n' ' ')"
