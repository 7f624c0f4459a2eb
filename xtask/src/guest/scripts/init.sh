#!/bin/busybox sh
# The guest's first process: mounts what a shell needs, loads the modules, then does what the word
# `trivet=` of the kernel's command line asks for; without one, a shell on the console.
export PATH=/bin:/trivet HOME=/ PS1='guest# '
/bin/busybox mkdir -p /proc /sys /dev /mnt /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
echo "guest: init reached"
task=
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in
    trivet=*) task=${word#trivet=} ;;
    esac
done
if [ "$task" = off ]; then
    /bin/busybox poweroff -f
fi
/bin/busybox --install -s /bin 2>/dev/null
if [ -f /lib/modules/order ]; then
    for module in $(cat /lib/modules/order); do
        # A driver for hardware that is not there refuses to load; that is no fault.
        insmod "/lib/modules/$module.ko" 2>/dev/null
    done
fi
if [ -n "$task" ]; then
    if "/trivet/$task"; then
        echo "guest: $task done"
    else
        echo "guest: failed: $task"
    fi
    poweroff -f
fi
cd /
exec setsid cttyhack sh
