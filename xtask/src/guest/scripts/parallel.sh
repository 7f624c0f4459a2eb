#!/bin/busybox sh
# Loads every processor at once, and checks that each one gets its sum right.
count=$(nproc)
echo "guest: processors: $count"
head -c 4194304 /dev/zero >/tmp/zeros
expected=$(sha256sum </tmp/zeros)
worker() {
    rounds=0
    while [ $rounds -lt 3 ]; do
        [ "$(taskset -c "$1" sha256sum </tmp/zeros)" = "$expected" ] || return 1
        rounds=$((rounds + 1))
    done
    echo right >"/tmp/worker.$1"
}
cpu=0
while [ $cpu -lt "$count" ]; do
    worker $cpu &
    cpu=$((cpu + 1))
done
wait
right=$(cat /tmp/worker.* | wc -l)
grep -i 'tlb\|resched\|call func\|Local timer' /proc/interrupts
[ "$right" = "$count" ] && echo "guest: parallel load right on $right processors"
