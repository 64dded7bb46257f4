#!/usr/bin/env bash
# Does what a new user does: on a fresh Debian with nothing but git, curl, make and a Rust toolchain, clones the last
# commit of this repository and runs the two commands of the README.
#
# The fresh machine is a debootstrap folder under ${TMPDIR:-/var/tmp}, removed at the end. It has the distribution,
# the package mirror, the certificates and the cargo registries of this machine, and its Rust toolchain read-only.
# All mounts are made in a mount namespace of their own, so none can outlive the run and none is seen by the removal.
#
#   CUBE_CLEAN_TARGET=DIR   start from this build directory, with this machine's downloaded crates, and save the twenty
#                           minutes of RocksDB. Both are the lower layers of overlays: nothing is written to them.
#   CUBE_CLEAN_STEPS        the steps to do, in this order, all by default: "refused logic setup run test"
#   CUBE_CLEAN_SUITE        another Debian or Ubuntu than this machine's, for example jammy; with
#   CUBE_CLEAN_MIRROR       the mirror that has it, for example http://archive.ubuntu.com/ubuntu, and
#   CUBE_CLEAN_COMPONENTS   what of it, "main universe" by default
#   CUBE_CLEAN_SECONDS_MAX  how long either command may take, 5400 by default; a machine that is busy needs longer
#
# It shares this machine's network, so nothing else may answer on the ports of `make run`: that is looked at first.
# Needs root, for the mounts. Takes about an hour without CUBE_CLEAN_TARGET.
set -euo pipefail

readonly RUN_SECONDS_MAX=${CUBE_CLEAN_SECONDS_MAX:-5400} # either command, RocksDB's compilation included
readonly CLONE=/home/cube-kv
readonly PORTS=(8080 8090 8100) # HTTP of the three nodes of `make run`
readonly ALL_STEPS=(refused logic setup run test)
readonly STEPS=${CUBE_CLEAN_STEPS:-${ALL_STEPS[*]}}

say() { echo "clean-machine: $*"; }

stop() {
    say "$@" >&2
    exit 1
}

# Another cluster there would be asked and written to in place of the new user's.
check_ports() {
    local port
    for port in "${PORTS[@]}"; do
        if (exec 3<>"/dev/tcp/localhost/$port") 2>/dev/null; then
            stop "something answers on port $port, which make run needs: end it, or leave out the step run (CUBE_CLEAN_STEPS)"
        fi
    done
}

# --- Outside: prepare the folder, enter the namespace, remove the folder. ---

outside() {
    [[ $EUID -eq 0 ]] || stop "needs root, for the mounts of the clean machine; run it with sudo"
    command -v rustc >/dev/null || stop "needs this machine's Rust toolchain on the PATH"
    local name
    for name in $STEPS; do
        [[ " ${ALL_STEPS[*]} " == *" $name "* ]] || stop "there is no step $name: there are ${ALL_STEPS[*]}"
    done
    if [[ " $STEPS " == *" run "* ]]; then check_ports; fi
    local repository
    repository=$(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --show-toplevel)
    git -C "$repository" rev-parse --quiet --verify HEAD >/dev/null || stop "there is no commit to clone yet"
    [[ -z $(git -C "$repository" status --porcelain) ]] || say "note: uncommitted changes are not part of the run"
    if ! command -v debootstrap >/dev/null; then
        say "installing debootstrap"
        DEBIAN_FRONTEND=noninteractive apt-get update
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap
    fi

    work=$(mktemp -d "${TMPDIR:-/var/tmp}/cube-clean.XXXXXX")
    trap 'rm -rf --one-file-system "$work"' EXIT
    bootstrap "$work/root"
    prepare_cargo "$work/root"
    # Cloned out here, with the rights of the repository's owner; the clone alone enters the clean machine.
    git clone --quiet --no-hardlinks "$repository" "$work/root$CLONE"
    git -C "$work/root$CLONE" log -1 --format='clean-machine: cloned %h %s'
    unshare --mount --propagation private --pid --fork --kill-child "${BASH_SOURCE[0]}" --inside "$work"
    say "all passed in $SECONDS s"
}

# A minimal Debian or Ubuntu: as this machine has it, from the mirror that this machine uses, or the one asked for.
bootstrap() {
    local root=$1 suite mirror components
    if [[ -n ${CUBE_CLEAN_SUITE:-} ]]; then
        suite=$CUBE_CLEAN_SUITE mirror=${CUBE_CLEAN_MIRROR:-} components=${CUBE_CLEAN_COMPONENTS:-main universe}
        [[ -n $mirror ]] || stop "CUBE_CLEAN_SUITE needs CUBE_CLEAN_MIRROR"
    else
        local sources
        # shellcheck source=/dev/null
        suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        # shellcheck disable=SC2016 # the format is apt's own
        sources=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(COMPONENT)' 'Created-By: Packages')
        mirror=$(awk -v suite="$suite" '$2 == suite { print $1; exit }' <<<"$sources")
        [[ -n $suite && -n $mirror ]] || stop "no package mirror for '$suite' in this machine's apt configuration"
        components=$(awk -v suite="$suite" -v mirror="$mirror" '$2 == suite && $1 == mirror { printf " %s", $3 }' <<<"$sources")
    fi
    say "bootstrapping $suite"
    debootstrap --variant=minbase --components="$(tr -s ' ' , <<<"${components# }")" --include=ca-certificates,curl,git,make \
        "$suite" "$root" "$mirror" >"$work/debootstrap.log" ||
        { tail -n 20 "$work/debootstrap.log" >&2; stop "debootstrap failed"; }
    echo "deb $mirror $suite $components" >"$root/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(http|https|Check-)' >"$root/etc/apt/apt.conf.d/90host" || true
    cp /etc/resolv.conf /etc/hosts "$root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
}

# The same registries; without CUBE_CLEAN_TARGET nothing that was downloaded from them.
prepare_cargo() {
    local root=$1 cargo_home=${CARGO_HOME:-$HOME/.cargo} name
    mkdir -p "$root$cargo_home"
    for name in config.toml config; do
        if [[ -f $cargo_home/$name ]]; then cp "$cargo_home/$name" "$root$cargo_home/"; fi
    done
}

# --- Inside the namespace: mount what is shared, then do the steps in the folder. ---

inside() {
    work=$1
    local root=$work/root cargo_home=${CARGO_HOME:-$HOME/.cargo} sysroot
    sysroot=$(rustc --print sysroot)
    mkdir -p "$root$sysroot"
    mount --bind "$sysroot" "$root$sysroot"
    mount -o remount,bind,ro "$root$sysroot"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    local environment=(HOME=/root TERM=dumb PATH="$sysroot/bin:/usr/sbin:/usr/bin:/sbin:/bin" CARGO_HOME="$cargo_home")
    if [[ -n ${CUBE_CLEAN_TARGET:-} ]]; then
        local target
        target=$(realpath "$CUBE_CLEAN_TARGET")
        layer "$target" "$root$target" "$work/target-layer"
        layer "$cargo_home/registry" "$root$cargo_home/registry" "$work/registry-layer"
        environment+=(CARGO_TARGET_DIR="$target")
    fi
    mapfile -t -O "${#environment[@]}" environment < <(network_settings)
    # Root's own folder is closed to others, and the step that is refused runs as another user.
    chmod 755 "$root/root"

    local name
    # The first two are about what is not installed yet.
    for name in "${ALL_STEPS[@]}"; do
        [[ " $STEPS " == *" $name "* ]] || continue
        local started=$SECONDS
        "step_$name"
        say "$name passed in $((SECONDS - started)) s"
    done
}

# A folder of this machine, written to elsewhere. The same path inside and outside keeps cargo's fingerprints valid.
layer() {
    local lower=$1 point=$2 upper=$3
    mkdir -p "$point" "$upper/changes" "$upper/work"
    mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper/changes,workdir=$upper/work" "$point" ||
        stop "cannot lay an overlay over $lower; run without CUBE_CLEAN_TARGET"
}

# How this machine reaches the network and its registries, one NAME=value a line. Tokens stay here.
network_settings() {
    env | grep -E '^([Hh][Tt][Tt][Pp][Ss]?_[Pp][Rr][Oo][Xx][Yy]|[Nn][Oo]_[Pp][Rr][Oo][Xx][Yy]|CARGO_(HTTP|NET|REGISTR(Y|IES)|SOURCE)_[A-Z0-9_]*)=' |
        grep -vE '^[A-Z0-9_]*(TOKEN|CREDENTIAL)[A-Z0-9_]*=' || true
}

# Runs a command in the clone, in the clean machine, without standard input and for a bounded time.
on_machine() {
    timeout --kill-after=30 "$RUN_SECONDS_MAX" chroot "$work/root" /usr/bin/env -i "${environment[@]}" \
        /bin/sh -c "cd $CLONE && exec \"\$@\"" sh "$@" </dev/null
}

# Without root and sudo, the set-up names what is missing and stops.
step_refused() {
    local answer
    if answer=$(on_machine setpriv --reuid=65534 --regid=65534 --clear-groups scripts/setup.sh 2>&1); then
        stop "the set-up passed without a compiler"
    fi
    echo "$answer"
    [[ $answer == *"apt-get install"*"g++ libclang-dev"* ]] || stop "the set-up does not name what is missing"
}

# The logic alone needs a linker, and neither a C++ compiler nor libclang.
step_logic() {
    on_machine make test-logic
    ! on_machine sh -c 'command -v c++' || stop "a C++ compiler was installed for the logic alone"
}

# The first time it installs, the second time it has nothing to do.
step_setup() {
    on_machine make setup
    local again
    again=$(on_machine scripts/setup.sh 2>&1)
    [[ -z $again ]] || stop "the second set-up was not quiet: $again"
}

# Three nodes serve, one keeps what another was given, and all end with the command that started them.
step_run() {
    # Before the ports are looked at again: it may take long enough for somebody else to come to them.
    on_machine make build
    check_ports
    # shellcheck disable=SC2016 # for the shell in there
    on_machine sh -c '
        make run & run=$!
        until curl --silent --fail localhost:8080/api/v1/health >/dev/null; do
            kill -0 $run || exit 1
            sleep 2
        done
        curl --silent --fail -X POST localhost:8080/api/v1/put -H "content-type: application/json" \
            -d "{\"key\":\"user:alice\",\"value\":\"Alice\",\"cl\":\"QUORUM\"}" &&
            curl --silent --fail "localhost:8090/api/v1/get/user:alice?cl=QUORUM" | grep --silent Alice
        answered=$?
        kill -TERM $run
        wait $run
        exit $answered
    '
    # Make ends at once, its nodes when they have ended what is under way.
    local seconds=0
    while curl --silent --max-time 2 localhost:8080/livez >/dev/null; do
        ((seconds++ < 60)) || stop "a node outlived make run"
        sleep 1
    done
}

step_test() { on_machine make test; }

if [[ ${1:-} == --inside ]]; then inside "$2"; else outside; fi
