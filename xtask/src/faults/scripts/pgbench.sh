#!/bin/sh
# Runs pgbench, round after round.
. /root/common.sh
round=0
while :; do
    pause pgbench
    out=$(cd /tmp && runuser -u postgres -- pgbench -n -c 2 -t 20 bench 2>&1)
    code=$?
    failed=$(echo "$out" | sed -n 's/^number of failed transactions: \([0-9]*\).*/\1/p')
    if [ $code = 0 ] && [ "$failed" = 0 ]; then
        say "pgbench $round $(echo "$out" | sed -n 's/^tps = \([0-9.]*\).*/\1/p')"
    else
        say "error: pgbench round $round ended with $code: $(echo "$out" | grep -i error | head -n 2 | tr '\n' ' ')"
        sleep 1
    fi
    round=$((round + 1))
done
