#!/bin/busybox sh
# How fast is a disk? Writes it once, then one fio job after the other; each tells operations a second, milliseconds
# that it ran and mean latency in microseconds, of reads and then of writes.
disk=${1:-nvme0n1}
seconds=${2:-4}
tries=0
while [ ! -b "/dev/$disk" ]; do
    tries=$((tries + 1))
    [ $tries -le 100 ] || {
        echo "guest: failed: speed: no /dev/$disk"
        exit 1
    }
    sleep 0.1
done
job() {
    name=$1
    shift
    echo "guest: speed: $name begins"
    /usr/bin/fio --name="$name" --filename="/dev/$disk" --direct=1 --ioengine=libaio --randrepeat=1 --norandommap \
        --output-format=terse --terse-version=3 "$@" >/tmp/out 2>&1 || {
        cat /tmp/out
        echo "guest: failed: speed: $name"
        exit 1
    }
    # Fields of fio's terse format, version 3.
    echo "guest: speed: $name ends: $(grep '^3;' /tmp/out | cut -d';' -f8,9,40,49,50,81) ."
}
timed() {
    job "$@" --size=128m --time_based --runtime="$seconds"
}
job fill --rw=write --bs=1m --iodepth=4 --size=128m
timed random-read-1 --rw=randread --bs=4k --iodepth=1
timed random-read-32 --rw=randread --bs=4k --iodepth=32
timed random-write-1 --rw=randwrite --bs=4k --iodepth=1
timed random-write-32 --rw=randwrite --bs=4k --iodepth=32
timed sequential-read --rw=read --bs=1m --iodepth=4
timed sequential-write --rw=write --bs=1m --iodepth=4
