#!/bin/sh
# Makes FOLDER/root, Python 3.11 for aarch64 from the Debian 12 that this machine is, and FOLDER/site, the packages named, for aarch64.
# sh tools/arm/prepare.sh FOLDER PACKAGE ...
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
mkdir -p "$folder"/apt/lists/partial "$folder"/apt/cache/archives/partial "$folder"/root
: > "$folder"/apt/status
cat > "$folder"/apt.conf <<EOF
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
APT::Install-Recommends "false";
Dir::State "$folder/apt";
Dir::State::Lists "$folder/apt/lists";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt/cache";
EOF
apt-get -c "$folder"/apt.conf -q update
apt-get -c "$folder"/apt.conf -q -y install --download-only python3.11 libgomp1 libstdc++6
for deb in "$folder"/apt/cache/archives/*.deb; do dpkg -x "$deb" "$folder"/root; done
# shellcheck disable=SC2046 # one option a version of glibc up to Debian 12's
python3 -m pip install --quiet --target "$folder"/site --python-version 3.11 --only-binary :all: \
    $(seq -f '--platform manylinux_2_%g_aarch64' 17 36) --platform manylinux2014_aarch64 "$@"
