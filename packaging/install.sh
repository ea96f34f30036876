#!/usr/bin/env bash
# Puts a built checkout in place as a system service, and takes it away again. Idempotent: a second run replaces what changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

SERVICE=sluice.service
MOUNT=run-sluice-bpf.mount

usage() {
  cat <<'TEXT'
Usage: packaging/install.sh [install|uninstall] [--prefix DIR] [--root DIR] [--purge] [--json] [--help]

install (default): needs root and a built checkout (npm run setup). Puts in place
  PREFIX (/opt/sluice)                  program, packet engine, steering program, npm packages of the run time, documentation
  /usr/local/bin/sluice                 the command
  /etc/systemd/system/                  sluice.service, run-sluice-bpf.mount
  /etc/sysusers.d, /etc/tmpfiles.d      user and directories
  bash and zsh completion
  /etc/sluice/sluice.yaml.example       the form of the configuration
It neither enables nor starts anything: write /etc/sluice/sluice.yaml, then `systemctl enable --now sluice`. A running service
goes on with what it has loaded, until `systemctl restart sluice`.

uninstall: stops the service and takes all of it away, but for configuration and state.
  --purge        takes configuration (/etc/sluice) and state (/var/lib/sluice), too

  --prefix DIR   where the program goes (default /opt/sluice); not under /home or /root, which the service cannot see
  --root DIR     put everything below DIR, and run none of systemd's tools: for images and packages
  --json         print what was done as JSON
  --help         this text
TEXT
}

action=install prefix=/opt/sluice root='' purge=false json=false
while (( $# )); do
  case "$1" in
    install|uninstall) action=$1 ;;
    --prefix) prefix=${2:?--prefix needs a directory}; shift ;;
    --root) root=${2:?--root needs a directory}; shift ;;
    --purge) purge=true ;;
    --json) json=true ;;
    --help|-h) usage; exit 0 ;;
    *) echo "install: unknown argument $1; --help lists them" >&2; exit 2 ;;
  esac
  shift
done

fail() { printf 'install: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '         %s\n' "$2" >&2; exit 1; }
done_list=()
note() { done_list+=("$1"); if ! $json; then echo "$1"; fi; }
# Of a name below --root, what it will be called there.
at() { printf '%s%s' "$root" "$1"; }
# Is there a systemd to tell, and is this its own root?
has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

case "$prefix" in /*) ;; *) fail "--prefix $prefix is no absolute path" ;; esac
prefix=$(realpath -m -- "$prefix")
# What is there is replaced as a whole: so it must be a directory of its own, at least two levels deep.
case "$prefix" in /home/*|/root/*|/usr/bin|/usr/sbin|/usr/lib|/usr/share|/usr/local|/etc/*|/var/lib|/var/log) bad=true ;; /*/*) bad=false ;; *) bad=true ;; esac
if $bad; then fail "--prefix $prefix is no place for it" "choose a directory of its own, like /opt/sluice"; fi
if [ -e "$root$prefix" ] && [ -n "$(ls -A "$root$prefix")" ] && ! grep -qs '"name": "sluice"' "$root$prefix/package.json"; then
  fail "$prefix holds something else" "choose a directory of its own, like /opt/sluice"
fi
[ -n "$root" ] || (( EUID == 0 )) || fail "this needs root" "run it as root, or with --root DIR"

# put FILE MODE DESTINATION: replaces a file in one step, when it differs; @NODE@ and @PREFIX@ become paths.
put() {
  local source=$1 mode=$2 destination text
  destination=$(at "$3")
  mkdir -p "$(dirname "$destination")"
  text=$(mktemp "$destination.XXXXXX")
  sed -e "s|@NODE@|$node|g" -e "s|@PREFIX@|$prefix|g" "$source" >"$text"
  chmod "$mode" "$text"
  if cmp -s "$text" "$destination" && [ "$(stat -c %a "$destination")" = "$mode" ]; then rm -f "$text"; else mv -f "$text" "$destination"; note "put in place: $3"; fi
}

# A new tree beside the old one, then exchanged by two renames: a service that starts meanwhile finds one of them, whole.
put_program() {
  local fresh old
  fresh=$(at "$prefix.new") old=$(at "$prefix.old")
  rm -rf "$fresh" "$old"
  mkdir -p "$fresh"
  cp -a package.json LICENSE README.md config.example.yaml bin docs "$fresh/"
  mkdir -p "$fresh/build/native" "$fresh/dist"
  find build/native -maxdepth 1 -name '*.node' -exec cp -a {} "$fresh/build/native/" \;
  cp -a build/bpf "$fresh/build/"
  cp -a dist/src "$fresh/dist/"
  # The packages of the run time alone: npm knows which those are.
  npm ls --omit=dev --all --parseable 2>/dev/null | sed -n "s|^$PWD/||p" | sort -u | while IFS= read -r package; do
    mkdir -p "$fresh/$(dirname "$package")"
    [ -e "$fresh/$package" ] || cp -a "$package" "$fresh/$package"
  done
  chown -R --no-dereference "$(id -u):$(id -g)" "$fresh"
  chmod -R u+rwX,go+rX,go-w "$fresh"
  if [ -e "$(at "$prefix")" ]; then mv "$(at "$prefix")" "$old"; fi
  mv "$fresh" "$(at "$prefix")"
  rm -rf "$old"
  note "put in place: $prefix"
}

install_all() {
  [ -f dist/src/cli/main.js ] && [ -f build/native/sluice.node ] && [ -d build/bpf ] && [ -d node_modules ] || fail "this checkout is not built" "npm run setup"
  node=$(readlink -f "$(command -v node)") || fail "Node.js is not in PATH" "install it for all users"
  case "$node" in /home/*|/root/*) fail "$node is in a home directory, which the service cannot see" "install Node.js for all users, and run this again" ;; esac
  put_program
  printf '#!/bin/sh\nexec @NODE@ @PREFIX@/bin/sluice "$@"\n' >"$work/sluice"
  put "$work/sluice" 755 /usr/local/bin/sluice
  put packaging/systemd/$SERVICE 644 /etc/systemd/system/$SERVICE
  put packaging/systemd/$MOUNT 644 /etc/systemd/system/$MOUNT
  put packaging/systemd/sluice.sysusers.conf 644 /etc/sysusers.d/sluice.conf
  put packaging/systemd/sluice.tmpfiles.conf 644 /etc/tmpfiles.d/sluice.conf
  node bin/sluice completion bash >"$work/bash"
  node bin/sluice completion zsh >"$work/zsh"
  put "$work/bash" 644 /usr/share/bash-completion/completions/sluice
  put "$work/zsh" 644 /usr/share/zsh/vendor-completions/_sluice
  put config.example.yaml 640 /etc/sluice/sluice.yaml.example
  if [ -z "$root" ] && command -v systemd-sysusers >/dev/null; then systemd-sysusers sluice.conf; fi
  if [ -z "$root" ] && command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create sluice.conf; fi
  if has_systemd; then systemctl daemon-reload; fi
  [ -e "$(at /etc/sluice/sluice.yaml)" ] || note "next: write /etc/sluice/sluice.yaml (its form is beside it), try it with \`sluice doctor --config /etc/sluice/sluice.yaml\`"
  note "then: systemctl enable --now sluice"
}

take() {
  local path
  for path in "$@"; do
    [ -e "$(at "$path")" ] || [ -L "$(at "$path")" ] || continue
    rm -rf --one-file-system "$(at "$path")"
    note "taken away: $path"
  done
}

uninstall_all() {
  if has_systemd; then
    systemctl disable --now $SERVICE 2>/dev/null || true
    systemctl stop $MOUNT 2>/dev/null || true
  fi
  if [ -z "$root" ] && mountpoint -q /run/sluice/bpf; then umount /run/sluice/bpf; fi
  take /etc/systemd/system/$SERVICE /etc/systemd/system/$MOUNT /etc/sysusers.d/sluice.conf /etc/tmpfiles.d/sluice.conf \
    /usr/share/bash-completion/completions/sluice /usr/share/zsh/vendor-completions/_sluice /usr/local/bin/sluice "$prefix" "$prefix.new" "$prefix.old" \
    /etc/sluice/sluice.yaml.example /run/sluice
  if $purge; then take /etc/sluice /var/lib/sluice; else rmdir "$(at /etc/sluice)" 2>/dev/null || true; fi
  if has_systemd; then systemctl daemon-reload; fi
  # The user stays: files of backups may be its own, and another must not get its number.
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [ "$action" = install ]; then install_all; else uninstall_all; fi
if $json; then printf '%s\n' "${done_list[@]}" | node -e 'const lines = require("fs").readFileSync(0, "utf8").trim().split("\n").filter(Boolean); console.log(JSON.stringify({ action: process.argv[1], done: lines }, null, 2));' "$action"; fi
