#!/usr/bin/env bash
# The one door to Ferry: checks what is needed, installs QEMU, gdb and Chromium where they are missing, builds the host
# tool `ferry` and hands over to it. ./run.sh alone is ./run.sh demo; ./run.sh --help says what there is.
#
# Exit status: 0 done and verified, 1 the system under test failed, 2 usage or environment.
set -euo pipefail

readonly QEMU=qemu-system-x86_64
readonly QEMU_PACKAGE=qemu-system-x86
readonly QEMU_OLDEST=7.2
readonly GDB=gdb
readonly CHROMIUM=chromium
readonly STATUS_ENVIRONMENT=2

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() {
    printf 'run.sh: %s\n' "$*" >&2
}

refuse() {
    say "$@"
    exit "$STATUS_ENVIRONMENT"
}

# Whether the command boots a machine. What only informs must work without QEMU.
needs_qemu() {
    case ${1:-demo} in
    -h | --help | -V | --version) return 1 ;;
    bench | demo | debug | mutants | report | shell | soak | test | boot | -*) return 0 ;;
    # Without a name it only says which experiments there are.
    run) [[ -n ${2:-} ]] ;;
    *) return 1 ;;
    esac
}

# Whether the command starts a debugger.
needs_gdb() {
    case ${1:-demo} in
    debug | test) return 0 ;;
    *) return 1 ;;
    esac
}

# Whether the command builds libFuzzer, which is written in C++.
needs_cxx() {
    [[ ${1:-demo} == fuzz && " $* " != *" --list "* && " $* " != *" --help "* && " $* " != *" -h "* ]]
}

# Whether the command opens reports in a browser: the tests do.
needs_browser() {
    [[ ${1:-demo} == test ]]
}

check_rust() {
    if ! command -v cargo >/dev/null; then
        # rustup puts it here, but a shell that was open before does not know.
        [[ -x $HOME/.cargo/bin/cargo ]] || refuse "cargo is not installed; install Rust from https://rustup.rs"
        export PATH="$HOME/.cargo/bin:$PATH"
    fi
    command -v cc >/dev/null || refuse "no linker: cc is not installed; on Debian and Ubuntu: apt-get install gcc libc6-dev"
}

# Runs a command as root, or fails where this user cannot become root without being asked.
as_root() {
    if [[ $EUID -eq 0 ]]; then
        "$@"
    else
        sudo --non-interactive "$@"
    fi
}

# Makes sure that a program is there: ensure PROGRAM PACKAGE WHAT, the last for people.
ensure() {
    local program=$1 package=$2 what=$3
    ! command -v "$program" >/dev/null || return 0
    local manual="apt-get install --no-install-recommends $package"
    command -v apt-get >/dev/null ||
        refuse "$program is not installed and there is no apt-get; install $what (Debian's package is $package)"
    if [[ $EUID -ne 0 ]] && ! sudo --non-interactive true 2>/dev/null; then
        refuse "$program is not installed and this user may not install it; run: sudo $manual"
    fi
    say "$program is not installed; installing Debian's package $package (apt-get update, $manual)"
    local log
    log=$(mktemp)
    if ! {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "$package"
    } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        refuse "apt-get failed, its last lines are above; install the package $package by hand: $manual"
    fi
    rm -f "$log"
    command -v "$program" >/dev/null || refuse "the package $package is installed, but $program is not in PATH"
}

check_qemu() {
    ensure "$QEMU" "$QEMU_PACKAGE" "QEMU $QEMU_OLDEST or newer for x86-64"
    local version
    version=$("$QEMU" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1) || true
    [[ -n $version ]] || refuse "$QEMU does not say its version; reinstall the package $QEMU_PACKAGE"
    if [[ $(printf '%s\n%s\n' "$QEMU_OLDEST" "$version" | sort --version-sort | head -n 1) != "$QEMU_OLDEST" ]]; then
        refuse "$QEMU is version $version, but Ferry needs $QEMU_OLDEST or newer; update the package $QEMU_PACKAGE"
    fi
}

build_ferry() {
    local target=$1 quiet=(--quiet)
    if [[ ! -x $target/release/ferry ]]; then
        say "building (only the first time takes long)"
        quiet=()
        # A terminal sees Cargo's progress; a log needs no list of crates.
        [[ -t 2 ]] || quiet=(--quiet)
    fi
    # From the root, because Cargo looks for .cargo/config.toml from where it stands.
    (cd "$root" && cargo build --release --locked "${quiet[@]}" --package ferry --bin ferry) ||
        refuse "the host tool does not build; Cargo's messages are above"
}

check_rust
if needs_qemu "$@"; then
    check_qemu
fi
if needs_gdb "$@"; then
    ensure "$GDB" "$GDB" "gdb with Python"
fi
if needs_cxx "$@"; then
    ensure c++ g++ "a C++ compiler"
fi
if needs_browser "$@"; then
    ensure "$CHROMIUM" "$CHROMIUM" "Chromium"
fi
# Relative paths are meant from where the user stands, so the directory stays.
target=${CARGO_TARGET_DIR:-$root/target}
case $target in
/*) ;;
*) export CARGO_TARGET_DIR="$PWD/$target" target="$PWD/$target" ;;
esac
build_ferry "$target"
exec "$target/release/ferry" "$@"
