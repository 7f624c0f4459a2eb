#!/bin/busybox sh
# Makes a file system on a disk. Then, round by round: writes, forgets what is cached, reads everything back; so many
# times, or until a line comes on the console. Powers off.
disk=${1:-nvme0n1}
rounds=${2:-3}
fail() {
    echo "guest: failed: rounds: $1"
    exit 1
}
forget() {
    sync || fail "sync"
    echo 3 >/proc/sys/vm/drop_caches
}
tries=0
while [ ! -b "/dev/$disk" ]; do
    tries=$((tries + 1))
    [ $tries -le 100 ] || fail "no /dev/$disk"
    sleep 0.1
done
echo "guest: disk found: $disk, $(($(cat /sys/block/$disk/size) / 2048)) MiB"
/usr/bin/mke2fs -q -t ext4 -F "/dev/$disk" || fail "mke2fs"
echo "guest: file system made"
mount -t ext4 "/dev/$disk" /mnt || fail "mount"
seq 1 200000 >/mnt/numbers || fail "write"
(cd /mnt && sha256sum numbers) >/tmp/sums
mkdir /tmp/sum
round=0
while [ $round -lt "$rounds" ]; do
    round=$((round + 1))
    # The sums are made of what was to be written, not of what the disk says.
    name=file$((round % 6))
    sum=$(head -c 1048576 /dev/urandom | tee "/mnt/$name" | sha256sum) || fail "write"
    echo "${sum%% *}  $name" >/tmp/sum/$name
    name=small$((round % 16))
    echo "round $round" >"/mnt/$name" || fail "write"
    (cd /mnt && echo "round $round" | sha256sum | sed "s/-/$name/") >/tmp/sum/$name
    forget
    cat /tmp/sums /tmp/sum/* >/tmp/all
    (cd /mnt && sha256sum -c -s /tmp/all) || fail "round $round reads something else than was written"
    echo "guest: round $round verified: $(wc -l </tmp/all) files"
    read -r -t 1 word && break
done
umount /mnt || fail "umount"
forget
mount -t ext4 -o ro "/dev/$disk" /mnt || fail "mount again"
(cd /mnt && sha256sum -c -s /tmp/all) || fail "verify"
umount /mnt || fail "umount again"
echo "guest: data verified"
echo "guest: power off"
poweroff -f
