#!/usr/bin/env bash
# Brings what only the system's packages can bring: pip, which fetches uv, and the shared libpython that Triton's Python stub links.
# Where both are there it does nothing and needs no root. Usage: requirements/system.sh PYTHON
set -euo pipefail
python=$1
libpython=$("$python" -c 'import sys; print("libpython%d.%d" % sys.version_info[:2])')

has_pip() { "$python" -m pip --version >/dev/null 2>&1 || /usr/bin/python3 -m pip --version >/dev/null 2>&1; }

has_libpython() {
  "$python" - "$libpython.so.1.0" >/dev/null 2>&1 <<'PY'
import ctypes, os, sys, sysconfig
beside = os.path.join(sysconfig.get_config_var("LIBDIR") or "", sys.argv[1])
ctypes.CDLL(beside if os.path.exists(beside) else sys.argv[1])
PY
}

missing=()
has_pip || missing+=(python3-pip ca-certificates)
has_libpython || missing+=("$libpython")
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "install: installing ${missing[*]} with apt-get"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2
  fi
fi
if ! has_pip; then
  echo "install: pip is missing; install it (Debian: sudo apt-get install python3-pip), then try again" >&2
  exit 1
fi
has_libpython || echo "install: $libpython is missing, and measuring needs it (Debian: sudo apt-get install $libpython)" >&2
