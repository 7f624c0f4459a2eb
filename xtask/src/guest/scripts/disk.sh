#!/bin/busybox sh
# Makes a file system on a disk, writes, forgets what is cached, reads it back, powers off.
disk=${1:-nvme0n1}
fail() {
    echo "guest: failed: disk: $1"
    exit 1
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
mkdir /mnt/programs && cp /bin/busybox /usr/bin/mke2fs /mnt/programs/ || fail "copy"
for directory in 0 1 2 3 4 5 6 7; do
    mkdir -p "/mnt/many/$directory" || fail "mkdir"
    for file in 0 1 2 3 4 5 6 7; do
        echo "$directory $file" >"/mnt/many/$directory/$file" || fail "write"
    done
done
cd /mnt && find . -type f | grep -v lost+found | xargs sha256sum >/tmp/sums && cd / || fail "sums"
cp /tmp/sums /mnt/sums && sync || fail "sync"
echo "guest: data written: $(find /mnt -type f | wc -l) files, $(du -sk /mnt | cut -f1) KiB"
umount /mnt || fail "umount"
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 -o ro "/dev/$disk" /mnt || fail "mount again"
cd /mnt && sha256sum -c -s /tmp/sums && cd / || fail "verify"
umount /mnt || fail "umount again"
echo "guest: data verified"
echo "guest: power off"
poweroff -f
