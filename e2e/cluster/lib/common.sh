# Settings shared by all commands. The cluster's number selects every name and subnet, so that several clusters live side by side.
KC=kc$N                                   # name of the netns, the cgroup, the veth
CNI_BIN=${CNI_BIN:-/usr/lib/cni}          # Debian: containernetworking-plugins
HOST_IP=10.200.$N.1  NODE_IP=10.200.$N.2  # veth pair host <-> netns (/30)
POD_CIDR=10.201.$N.0/24  POD_GW=10.201.$N.1
SVC_CIDR=10.202.$N.0/24  SVC_API=10.202.$N.1  SVC_DNS=10.202.$N.10
SOCK=$DIR/containerd/c.sock               # a unix socket path holds 107 characters at most
SYSCTL=/run/burnish-cluster.sysctl         # of this machine before the first cluster
CG=/sys/fs/cgroup
export KUBECONFIG=$DIR/admin.kubeconfig

# cgroup v1 has a tree per controller, v2 one for all; `procs` is the one that knows our processes.
if [ -e $CG/cgroup.controllers ]; then
  CGROUP_VERSION=2 PROCS=$CG
  cgroups() { echo $CG; }
  cgroup_pattern() { echo "0::/$1"; }
else
  CGROUP_VERSION=1 PROCS=$CG/pids
  cgroups() { for c in cpu cpuacct cpuset memory pids devices freezer blkio systemd unified; do echo $CG/$c; done; }
  cgroup_pattern() { echo "pids:/$1"; }
fi
ours() { grep -qs "$(cgroup_pattern "$KC-sys")" "/proc/$1/cgroup"; } # a pid of one of our daemons, and not one that was given out again
stop() { # NAME: end one daemon and wait for it
  local p; p=$(cat "$DIR/run/$1.pid" 2>/dev/null) || return 0
  # its cgroup tells that the pid is still ours; `kill -0` would also find an ended one not yet reaped
  if ours "$p"; then kill "$p"; fi
  while ours "$p"; do sleep 0.05; done
}
ctr_() { ctr -a "$SOCK" -n k8s.io "$@"; }

need_root() { [ "$(id -u)" = 0 ] || { echo "cluster: needs root (network namespaces, cgroups, containerd); use sudo" >&2; exit 1; }; }

note_untested() {
  [ $CGROUP_VERSION = 1 ] || echo "cluster: this machine has cgroup v2; that path was written but never run (docs/limits.md): tell us how it went" >&2
}

# Only what is missing, and of that only what is needed: the control plane alone needs no container runtime.
need_packages() {
  local missing=() want=(openssl:openssl ip:iproute2 curl:curl sysctl:procps nsenter:util-linux)
  [ -n "$CP" ] || want+=(containerd:containerd runc:runc iptables:iptables /usr/lib/cni/bridge:containernetworking-plugins /bin/busybox:busybox-static)
  for pair in "${want[@]}"; do command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "cluster: missing: ${missing[*]}; install them (Debian: sudo apt-get install ${missing[*]})" >&2
    exit 1
  fi
  echo "cluster: installing ${missing[*]} with apt-get" >&2
  local log; log=$(mktemp)
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 15 "$log" >&2; rm -f "$log"; exit 1
  fi
  rm -f "$log"
}

# Import image archives; one whose images are all there is skipped.
load_images() {
  local tar refs ref there
  there=$(ctr_ images ls -q)
  for tar in "$@"; do
    refs=$(tar -xOf "$tar" manifest.json | tr ',' '\n' | sed -n 's/.*"\([^"]*:[^"]*\)"\].*/\1/p; s/.*RepoTags":\["\([^"]*\)".*/\1/p' | sort -u)
    for ref in $refs; do
      if ! grep -qx "$ref" <<<"$there"; then
        local start=$SECONDS size free
        size=$(stat --format %s "$tar") free=$(df --output=avail --block-size=1 "$DIR" | tail -1)
        # Twice its size for as long as it is unpacked, and some room for the kubelet, which begins to evict at a given rest.
        if [ "$free" -lt $((2 * size + (1 << 30))) ]; then
          echo "cluster: $ref needs $((2 * size / 1000000 + 1000)) MB of free disk at $DIR to be loaded, and there are $((free / 1000000)) MB" >&2; exit 1
        fi
        ctr_ images import "$tar" >/dev/null
        # An unpacked layer is in the snapshots; its archive is only needed to push the image on, and is as large again.
        tar -xOf "$tar" "$(tar -xOf "$tar" manifest.json | sed 's/.*"Config":"\([^"]*\)".*/\1/')" | grep -o '"diff_ids":\[[^]]*\]' | grep -o 'sha256:[0-9a-f]*' |
          xargs -r ctr -a "$SOCK" -n k8s.io content rm >/dev/null 2>&1 || true
        echo "cluster: loaded $ref in $((SECONDS - start)) s"
        break
      fi
    done
  done
}

# versitygw on the host's end of the veth pair, with the daemons of the cluster, so that `down` ends it. Its keys are for this machine only.
start_s3() { # NAME PORT
  local pid url=http://$HOST_IP:$2
  mkdir -p "$DIR/$1/data" "$DIR/$1/meta"
  pid=$(cat "$DIR/run/$1.pid" 2>/dev/null || echo 0)
  if ! ours "$pid"; then
    ROOT_ACCESS_KEY=demo ROOT_SECRET_KEY=demo-secret setsid sh -c 'echo $$ > "$1"; echo $$ > "$2"; shift 2; exec "$@"' \
      sh "$DIR/run/$1.pid" "$PROCS/$KC-sys/cgroup.procs" \
      "$BIN/versitygw" --port "$HOST_IP:$2" --quiet posix --sidecar "$DIR/$1/meta" "$DIR/$1/data" >>"$DIR/log/$1.log" 2>&1 </dev/null &
  fi
  for _ in $(seq 100); do
    if curl -s --noproxy '*' -o /dev/null "$url/"; then echo "$url"; return; fi
    sleep 0.1
  done
  echo "cluster: the S3 server does not answer (see $DIR/log/$1.log)" >&2
  return 1
}

# Another one, empty, whose data is on a file system of this size.
start_small_s3() { # SIZE
  local pid
  pid=$(cat "$DIR/run/s3-small.pid" 2>/dev/null || echo 0)
  if ours "$pid"; then
    kill "$pid"
    while ours "$pid"; do sleep 0.05; done
  fi
  if mountpoint -q "$DIR/s3-small"; then umount "$DIR/s3-small"; fi
  mkdir -p "$DIR/s3-small"
  mount -t tmpfs -o "size=$1" burnish-s3-small "$DIR/s3-small"
  start_s3 s3-small 7071
}
