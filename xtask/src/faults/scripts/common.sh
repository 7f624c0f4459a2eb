# Read by the other scripts: their lines on the console, and the pause that the host may ask for.
say() {
    echo "guest: $*" >/dev/ttyS0
}
pause() {
    [ -e /run/hold ] || return 0
    say "held $1"
    while [ -e /run/hold ]; do
        sleep 0.2
    done
}
