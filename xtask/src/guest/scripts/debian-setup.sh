#!/bin/sh
# Finishes Debian's root directory $1, when all packages are in it: a serial login, and nothing at start that a
# machine for tests does not need.
set -eu
root=$1
echo trivet >"$root/etc/hostname"
printf '127.0.0.1 localhost trivet\n::1 localhost\n' >"$root/etc/hosts"
printf '/dev/nvme0n1 / ext4 rw,relatime,errors=remount-ro 0 0\n' >"$root/etc/fstab"
# Without an identity, each start of a fresh copy would be a first start, which takes longer.
echo 74726976657400000000000000000001 >"$root/etc/machine-id"
# The serial line is the only way in, and whoever holds its socket holds the machine.
chroot "$root" passwd --delete root >/dev/null
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'END'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 - $TERM
END
cat >"$root/root/.profile" <<'END'
PS1='root@trivet:\w# '
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
END
: >"$root/etc/motd"
rm -f "$root"/etc/update-motd.d/*
for unit in \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    fstrim.timer man-db.timer logrotate.timer systemd-tmpfiles-clean.timer xfs_scrub_all.timer \
    getty@tty1.service systemd-timesyncd.service systemd-networkd-wait-online.service \
    systemd-pstore.service systemd-binfmt.service systemd-hwdb-update.service systemd-journal-flush.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    nvmefc-boot-connections.service nvmf-autoconnect.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/trivet.conf"
# They start when somebody asks for them.
chroot "$root" systemctl --quiet disable ssh.service postgresql.service
chroot "$root" systemctl --quiet enable ssh.socket
chroot "$root" systemctl --quiet set-default multi-user.target
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb
