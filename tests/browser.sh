#!/bin/sh
# Installs the browser that the tests of the web page drive, from Debian's or Ubuntu's packages. Needs root, once.
set -eu
command -v chromium >/dev/null 2>&1 && exit 0
command -v apt-get >/dev/null 2>&1 || { echo 'Install Chromium: this script knows apt-get only.' >&2; exit 1; }
apt-get update -q >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null
chromium --version
