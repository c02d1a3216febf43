#!/usr/bin/env bash
# Puts flite's libraries into a folder of the virtual environment, without root and without touching the system.
# Usage: fetch_flite.sh TARGET_DIR. Always ends well: without flite the agent speaks with espeak-ng from its wheel.
set -u

target=$1

say() { echo "flite: $*" >&2; }

have_system_flite() {
    { /sbin/ldconfig -p || ldconfig -p; } 2>/dev/null | grep -q 'libflite_cmu_us_slt\.so\.1'
}

give_up() {
    say "$* The agent will speak with espeak-ng, which is harder to understand; 'apt-get install libflite1' helps."
    exit 0
}

if have_system_flite; then
    say "found on this system"
    exit 0
fi
if [ -e "$target/libflite.so.1" ]; then
    say "found in $target"
    exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "not installed, and this is no Debian or Ubuntu."

work=$(mktemp -d) || give_up "no temporary folder."
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 0

download() { apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$1" >/dev/null 2>&1; }

if ! download libflite1; then
    # A fresh container has no package lists; only root can fetch them.
    if [ "$(id -u)" = 0 ]; then
        say "fetching package lists"
        apt-get update -qq >/dev/null 2>&1
    fi
    download libflite1 || give_up "'apt-get download libflite1' failed."
fi
# flite's player, which is not used here, links against ALSA.
{ /sbin/ldconfig -p || ldconfig -p; } 2>/dev/null | grep -q 'libasound\.so\.2' ||
    download libasound2t64 || download libasound2 || give_up "its dependency libasound2 could not be downloaded."

for package in ./*.deb; do
    dpkg-deb -x "$package" unpacked || give_up "$package could not be unpacked."
done
mkdir -p "$target"
find unpacked -path '*/lib/*' -name '*.so.*' -exec cp -a {} "$target/" \;
[ -e "$target/libflite.so.1" ] || give_up "the package did not hold libflite.so.1."
say "unpacked into $target"
