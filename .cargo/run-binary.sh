#!/usr/bin/env bash
# Cargo's runner: run-binary.sh PROGRAM [ARGUMENTS].
#
# A kernel carries the section .bootloader-config; `ferry` boots it, an example as the experiment that it is. Anything else (host tools, tests of
# the host) is executed as it is.
set -euo pipefail

program=$1
if ! readelf --wide --section-headers "$program" 2>/dev/null | grep -qF ' .bootloader-config '; then
    exec "$@"
fi
shift

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The host tool in the profile of the kernel, so that little is built twice.
profile=()
case $program in
*/release/*) profile=(--release) ;;
esac
case $program in
/*) ;;
*) program=$PWD/$program ;;
esac
target=${CARGO_TARGET_DIR:-$root/target}
directory=debug
[[ ${#profile[@]} -eq 0 ]] || directory=release
cd "$root"
"${CARGO:-cargo}" build --locked --quiet "${profile[@]}" --package ferry --bin ferry
# Cargo builds examples into a folder of their own.
command=boot
case $program in
*/examples/*) command=boot-experiment ;;
esac
exec "$target/$directory/ferry" "$command" "$program" "$@"
