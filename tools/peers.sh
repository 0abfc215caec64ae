#!/usr/bin/env bash
# Install the programs that the peer tests talk to; does nothing where all of them are there.
set -euo pipefail
cd "$(dirname "$0")/.."

# Prism's own packages ask for each other's newest version, and of those npm takes ones that need a
# newer Node than Prism itself: Debian 12's npm 9 takes 5.16, which does not start on its Node 18.
wanted='{
  "private": true,
  "dependencies": {"@stoplight/prism-cli": "5.14.2"},
  "overrides": {
    "@stoplight/prism-core": "5.8.0",
    "@stoplight/prism-http": "5.12.0",
    "@stoplight/prism-http-server": "5.12.2"
  }
}'
mkdir -p .peers

logged() { # NAME COMMAND...: run quietly, show the end of what it printed if it fails
  local log=".peers/$1.log"
  shift
  "$@" >"$log" 2>&1 </dev/null && return
  tail -n 15 "$log" >&2
  echo "Failed: $* (the whole output is in $log)" >&2
  return 1
}

packages=()
command -v strace >/dev/null || packages+=(strace)
command -v faketime >/dev/null || packages+=(faketime)
command -v chromium >/dev/null || command -v google-chrome >/dev/null || packages+=(chromium fonts-dejavu-core)
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
if ((${#packages[@]})); then
  if [[ $EUID -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "Missing: ${packages[*]}. Install them (on Debian: apt-get install ${packages[*]})." >&2
    exit 1
  fi
  echo "Installing ${packages[*]} ..."
  export DEBIAN_FRONTEND=noninteractive
  logged apt-update apt-get update
  logged apt-install apt-get install --yes --no-install-recommends "${packages[@]}"
fi

# npm's folder is no proof that npm came to its end: the file written after it is.
if [[ ! -e .peers/node_modules/.bin/prism || $(cat .peers/installed 2>&1) != "$wanted" ]]; then
  echo "Installing Prism into .peers ..."
  printf '%s\n' "$wanted" >.peers/package.json
  logged npm npm install --prefix .peers --no-package-lock --no-audit --no-fund
  cp .peers/package.json .peers/installed
fi

# Klaviyo's MCP server needs Python 3.13; where there is none, its test says so.
newer=
for python in python3.13 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13*/bin/python; do
  # pyenv's shims are on the PATH for versions that are not switched on.
  "$python" -c 'import ssl' 2>/dev/null && newer=$python && break
done
if [[ -n $newer ]]; then
  "$newer" tools/environment.py .venvs/mcp klaviyo-mcp-server==0.4.2 -e .
else
  echo "Not installed: klaviyo-mcp-server, which needs Python 3.13 (python3.13, or pyenv's)."
fi
