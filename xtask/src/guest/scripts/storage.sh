#!/bin/busybox sh
# Speaks NVMe through Debian's own tool, then writes and verifies both disks with fio.
nvme=/usr/bin/nvme
fio=/usr/bin/fio
step() {
    echo "guest: storage: $*"
}
must() {
    "$@" >/tmp/out 2>&1 || {
        cat /tmp/out
        echo "guest: failed: $*"
        exit 1
    }
}
step identify
must $nvme id-ctrl /dev/nvme0
must $nvme id-ns /dev/nvme0n1
must $nvme list-ns /dev/nvme0
step logs
must $nvme smart-log /dev/nvme0
must $nvme error-log /dev/nvme0
must $nvme fw-log /dev/nvme0
step features
for feature in 1 2 4 6 7 8 9 0xa 0xb; do
    must $nvme get-feature /dev/nvme0 -f $feature
done
must $nvme get-feature /dev/nvme0 -n 1 -f 5
step format
if $nvme format /dev/nvme0n1 --force >/tmp/out 2>&1; then
    echo "guest: storage: format was accepted"
else
    echo "guest: storage: format was refused: $(tail -n 1 /tmp/out)"
fi
for disk in nvme0n1 vda; do
    step "fio on $disk"
    must $fio --name=verify --filename=/dev/$disk --rw=randwrite --bs=4k --size=8m --direct=1 \
        --ioengine=libaio --iodepth=32 --verify=crc32c --do_verify=1 --verify_fatal=1 \
        --randrepeat=1
done
echo "guest: storage verified"
