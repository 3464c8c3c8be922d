#!/bin/bash
# docker.sh - a private Docker engine for tests of container discovery: no
# registry, no image download, nothing of the host's own network touched.
#
# dockerd runs in mount, cgroup and network namespaces of its own: its bridge,
# its firewall rules and its containers' addresses exist in there only.  With
# -t, the network namespace is that of a testbed.sh system, and the engine's
# socket appears in that system as /run/docker.sock: a service installed there
# sees what it would see on a real Docker host.
#
#   docker.sh [-n NAME] [-t TESTBED] COMMAND
#
#   check               can the host do it?  prints why not; exit 77 if not
#   up                  start the engine, import the image relayd-test/http
#   run NAME PORT [DOCKER-ARG...]
#                       a container that answers HTTP on PORT with its own name
#                       and host name, on every path; label relayd.enable=true
#                       and relayd.port=PORT are set; prints its address
#   recreate NAME       remove it and create it again, as a deploy does, with
#                       the same labels; its old address is kept occupied, so
#                       the new one differs; prints the new address
#   ip NAME             print its address
#   image NAME DIR      make an image of a root file system folder
#   docker ARG...       the docker client on this engine
#   api METHOD PATH [CURL-ARG...]   its HTTP API, e.g. api GET /events
#   netexec CMD...      run a program of the HOST on the engine's network
#   sock                print the path of its socket
#   down                stop and remove everything
#
# Environment: TESTBED_CACHE as in testbed.sh (default
# /var/tmp/relayd-testbed); TESTBED_DOCKER_BIP, the bridge's address
# (default 172.31.99.1/24); TESTBED_DOCKER_DRIVER (default overlay2; vfs works
# too).
# Needs root; packages docker.io, iptables, iproute2, busybox-static, curl.
set -euo pipefail
export LC_ALL=C.UTF-8
me=${0##*/}
here=$(cd "$(dirname "$0")" && pwd)
die() { echo "$me: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -euo/p' "$0" | sed '$d; s/^# \{0,1\}//'; }

name=engine testbed=
while getopts n:t:h opt; do
    case $opt in
        n) name=$OPTARG ;;
        t) testbed=$OPTARG ;;
        h) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
done
shift $((OPTIND - 1))
[[ $name =~ ^[a-z][a-z0-9-]{0,30}$ ]] || die "bad name: $name"
dir=${TESTBED_CACHE:-/var/tmp/relayd-testbed}/docker/$name
sock=$dir/docker.sock
group=relayd-docker-$name

cgroup_root() {
    if [ "$(stat -fc %T /sys/fs/cgroup 2>/dev/null)" = cgroup2fs ]; then echo /sys/fs/cgroup
    elif [ "$(stat -fc %T /sys/fs/cgroup/unified 2>/dev/null)" = cgroup2fs ]; then echo /sys/fs/cgroup/unified
    else return 1; fi
}
engine_pid() {
    local p
    p=$(cat "$dir/docker.pid" 2>/dev/null) || return 1
    [ "$(cat "/proc/$p/comm" 2>/dev/null)" = dockerd ] || return 1
    echo "$p"
}
need_up() { E=$(engine_pid) || die "not up (run: $me up)"; }
d() { DOCKER_HOST=unix://$sock DOCKER_CONFIG=$dir/config docker "$@"; }

check() {
    local bad=0 tool
    [ "$(id -u)" = 0 ] || { echo "not root"; bad=1; }
    for tool in dockerd docker containerd runc iptables ip nsenter curl; do
        command -v $tool >/dev/null || { echo "missing command: $tool"; bad=1; }
    done
    [ -x /bin/busybox ] || { echo "missing: busybox-static"; bad=1; }
    cgroup_root >/dev/null || { echo "no cgroup2 tree is mounted"; bad=1; }
    [ $bad = 0 ] && echo ok || return 77
}

up() {
    check >/dev/null || { check >&2 || true; exit 77; }
    ! engine_pid >/dev/null || die "already up"
    cleanup
    mkdir -p "$dir/data" "$dir/exec" "$dir/config"
    local g tbpid= unshare_net=-n tbsock= gid=0 i
    if [ -n "$testbed" ]; then
        [ "$("$here/testbed.sh" -n "$testbed" status)" = up ] || die "testbed $testbed is not up"
        tbpid=$(pgrep -P "$(cat "${TESTBED_CACHE:-/var/tmp/relayd-testbed}/run/$testbed/pid")" | head -n 1)
        echo "$tbpid" >"$dir/testbed.pid"
        unshare_net=
        # Where and whose it is on a real Docker host: root:docker, mode 0660.
        tbsock=/proc/$tbpid/root/run/docker.sock
        gid=$("$here/testbed.sh" -n "$testbed" sh \
            'getent group docker >/dev/null || groupadd --system docker; getent group docker' | cut -d: -f3)
    fi
    g=$(cgroup_root)/$group; mkdir -p "$g/engine"
    (
        echo 0 >"$g/engine/cgroup.procs"
        export D=$dir BIP=${TESTBED_DOCKER_BIP:-172.31.99.1/24} DRIVER=${TESTBED_DOCKER_DRIVER:-overlay2}
        export TBSOCK=$tbsock GID=$gid
        exec setsid ${tbpid:+nsenter -t "$tbpid" -n --} \
            unshare -m $unshare_net -C --propagation private bash -c '
            umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
            ip link set lo up
            exec dockerd --data-root "$D/data" --exec-root "$D/exec" -p "$D/docker.pid" \
                -H "unix://$D/docker.sock" --bip "$BIP" --storage-driver "$DRIVER" \
                --group "$GID" ${TBSOCK:+-H "unix://$TBSOCK"}
        ' >"$dir/log" 2>&1 </dev/null
    ) &
    for ((i = 0; i < 120; i++)); do
        d version >/dev/null 2>&1 && break
        [ $i -lt 5 ] || kill -0 $! 2>/dev/null || break
        sleep 0.25
    done
    d version >/dev/null 2>&1 || { tail -n 15 "$dir/log" >&2; die "dockerd did not start, see $dir/log"; }
    http_image
    echo "$me: up: $(d version -f '{{.Server.Version}}'), DOCKER_HOST=unix://$sock" >&2
}

http_image() {
    local t a
    t=$(mktemp -d "$dir/image.XXXXXX")
    mkdir -p "$t/bin" "$t/www/cgi-bin" "$t/tmp" "$t/etc"
    cp /bin/busybox "$t/bin/"
    for a in sh httpd sleep cat echo hostname wget ip; do ln -s busybox "$t/bin/$a"; done
    cat >"$t/bin/serve" <<'S'
#!/bin/sh
# serve PORT NAME: every path answers with who answered.
printf '{"name":"%s","host":"%s"}\n' "$2" "$(hostname)" >/www/index.html
printf 'E404:/www/index.html\n' >/etc/httpd.conf
exec httpd -f -p "$1" -h /www -c /etc/httpd.conf
S
    chmod +x "$t/bin/serve"
    tar -C "$t" -c . | d import - relayd-test/http >/dev/null
    rm -rf "$t"
}

ip_of() {
    d inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' "$1" | awk '{print $1}'
}
run_it() {
    local n=$1 port=$2; shift 2
    printf '%s\n' "$port" "$@" >"$dir/args-$n"
    d run -d --name "$n" --label relayd.enable=true --label "relayd.port=$port" "$@" \
        relayd-test/http /bin/serve "$port" "$n" >/dev/null
    ip_of "$n"
}
recreate() {
    local n=$1 old args ip
    [ -f "$dir/args-$n" ] || die "no such container: $n"
    mapfile -t args <"$dir/args-$n"
    old=$(ip_of "$n" || true)
    d rm -f "$n" >/dev/null
    # Docker hands out the lowest free address: leave the old one taken.
    d run -d --label relayd-test.squatter=1 relayd-test/http /bin/sleep 86400 >/dev/null
    ip=$(run_it "$n" "${args[@]}")
    [ "$ip" != "$old" ] || die "the address did not change: $ip"
    echo "$ip"
}

cleanup() {
    local g
    if g=$(cgroup_root)/$group && [ -d "$g" ]; then
        find "$g" -depth -type d -exec rmdir {} + 2>/dev/null || true
    fi
    rm -rf --one-file-system "$dir"
}
down() {
    local p p_testbed i
    if p=$(engine_pid); then
        if [ -s "$dir/testbed.pid" ]; then
            p_testbed=$(cat "$dir/testbed.pid")
            rm -f "/proc/$p_testbed/root/run/docker.sock" 2>/dev/null || true
        fi
        d ps -aq | xargs -r env DOCKER_HOST=unix://"$sock" docker rm -f >/dev/null 2>&1 || true
        kill "$p"
        for ((i = 0; i < 80; i++)); do kill -0 "$p" 2>/dev/null || break; sleep 0.25; done
        kill -KILL "$p" 2>/dev/null || true
    fi
    cleanup
}

[ $# -ge 1 ] || { usage >&2; exit 2; }
cmd=$1; shift
case $cmd in
    check)    check ;;
    up)       up ;;
    run)      [ $# -ge 2 ] || die "run NAME PORT"; need_up; run_it "$@" ;;
    recreate) [ $# = 1 ] || die "recreate NAME"; need_up; recreate "$1" ;;
    ip)       need_up; ip_of "$1" ;;
    image)    [ $# = 2 ] || die "image NAME DIR"; need_up; tar -C "$2" --one-file-system -c . | d import - "$1" ;;
    docker)   need_up; d "$@" ;;
    api)      need_up; m=$1 p=$2; shift 2; curl -sS -N -X "$m" --unix-socket "$sock" "http://docker$p" "$@" ;;
    netexec)  need_up; exec nsenter -t "$E" -n -- "$@" ;;
    sock)     need_up; echo "$sock" ;;
    down)     down ;;
    *)        usage >&2; exit 2 ;;
esac
