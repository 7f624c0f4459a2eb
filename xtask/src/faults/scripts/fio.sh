#!/bin/sh
# Writes and verifies with fio, round after round from $1, and tells the longest request in microseconds.
. /root/common.sh
round=$1
while :; do
    pause fio
    out=$(fio --name=v --filename=/data/fio$((round % 2)) --size=4m --bs=4k --rw=randwrite --ioengine=libaio \
        --direct=1 --iodepth=16 --verify=crc32c --verify_fatal=1 --randseed=$round --end_fsync=1 --minimal 2>&1)
    code=$?
    if [ $code = 0 ]; then
        say "fio $round $(echo "$out" | grep '^3;' | cut -d';' -f39,80 | tr ';' ' ')"
    else
        say "error: fio round $round ended with $code: $(echo "$out" | grep -v '^3;' | head -n 2 | tr '\n' ' ')"
        sleep 1
    fi
    round=$((round + 1))
done
