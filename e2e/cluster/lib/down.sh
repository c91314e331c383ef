#!/usr/bin/env bash
# Ends the cluster: only processes in its own two cgroups, then mounts, network and cgroups; `cluster down` calls it.
# KEEP=1 keeps $DIR (etcd data, images, certificates) for the next up.
set -u
[ -z "${TRACE:-}" ] || { PS4='+ ${EPOCHREALTIME} '; set -x; }
HERE=$(cd "$(dirname "$0")/.." && pwd)
. "$HERE/lib/common.sh"
procs() { find "$PROCS/$1" -name cgroup.procs -exec cat {} + 2>/dev/null; }
finish() { # CGROUP SECONDS: TERM, wait, KILL
  local p end=$((SECONDS + $2))
  p=$(procs "$1"); [ -z "$p" ] || kill $p 2>/dev/null
  while [ -n "$(procs "$1")" ] && [ $SECONDS -lt $end ]; do sleep 0.1; done
  p=$(procs "$1"); [ -z "$p" ] || kill -9 $p 2>/dev/null
  while [ -n "$(procs "$1")" ]; do sleep 0.1; done
}
stop kubelet                      # first, so that nothing is started again
p=$(procs $KC); [ -z "$p" ] || kill -9 $p            # pods (their cgroup is the kubelet's cgroupRoot)
if [ -S "$SOCK" ]; then           # forget the pods, so that their shims end
  for c in $(timeout 5 ctr -a "$SOCK" -n k8s.io tasks ls -q 2>/dev/null); do ctr_ tasks delete -f "$c" >/dev/null 2>&1; done
  for c in $(timeout 5 ctr -a "$SOCK" -n k8s.io containers ls -q 2>/dev/null); do ctr_ containers delete "$c" >/dev/null 2>&1; done
fi
for d in kube-proxy scheduler controller-manager apiserver containerd etcd; do stop $d; done
finish $KC 1; finish $KC-sys 5    # what is left: shims
# innermost mounts first; the netns of pods are mounts below $DIR too
awk -v d="$DIR/" 'index($2, d) == 1 {print $2}' /proc/mounts | tac | while read -r m; do umount -l "$m"; done
ip link del ${KC}h 2>/dev/null; ip netns del $KC 2>/dev/null     # routes and rules go with them
for c in $(cgroups); do find "$c/$KC" -depth -type d -exec rmdir {} \; 2>/dev/null; done
rmdir "$PROCS/$KC-sys" 2>/dev/null
grep -ls "$DIR/" /var/lib/cni/results/* 2>/dev/null | xargs -r rm -f   # what the CNI library remembers of our pods
# what the kubelet set, once no cluster needs it
if [ -f "$SYSCTL" ] && ! compgen -G "$PROCS/kc[0-9]*-sys" >/dev/null; then sysctl -qp "$SYSCTL"; rm -f "$SYSCTL"; fi
find /var/log/containers -type l -lname "$DIR/*" -delete 2>/dev/null
rm -rf "$DIR/run" "$DIR/ipam"
[ -n "${KEEP:-}" ] || rm -rf "$DIR"
