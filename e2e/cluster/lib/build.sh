# Builds programs from the Go modules in build/, each once per version, into a cache outside the tree.
#   $CACHE/<module>-<hash of its go.mod, go.sum and flags>/<programs>     and $BIN with a link to each program of this checkout's versions
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/burnish/cluster
MODULES=$HERE/build
KUBERNETES=v1.34.4
version=k8s.io/component-base/version # without these the cluster reports v0.0.0 and kubectl warns
K8S_FLAGS="-s -w -X $version.gitVersion=$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=34 -X $version.gitTreeState=clean"

module_of() { # PROGRAM: its module
  case $1 in
    kube-apiserver | kube-controller-manager | kube-scheduler | kubelet | kube-proxy | kubectl) echo k8s ;;
    etcd | coredns | helm | versitygw | pause) echo "$1" ;;
    local-path-provisioner) echo localpath ;;
    metrics-server) echo metrics ;;
    fake-gcs-server) echo fakegcs ;;
    *) echo "cluster: no program $1 is built here" >&2; return 1 ;;
  esac
}
HELM=helm.sh/helm/v3 # without these helm takes the cluster for v1.20 where it asks none
HELM_FLAGS="-s -w -X $HELM/pkg/chartutil.k8sVersionMajor=1 -X $HELM/pkg/chartutil.k8sVersionMinor=34"
HELM_FLAGS="$HELM_FLAGS -X $HELM/pkg/lint/rules.k8sVersionMajor=1 -X $HELM/pkg/lint/rules.k8sVersionMinor=34"
flags_of() { case $1 in k8s) echo "$K8S_FLAGS" ;; helm) echo "$HELM_FLAGS" ;; *) echo "-s -w" ;; esac; }
hash_of() { { flags_of "$1"; cat "$MODULES/$1"/go.* "$MODULES/$1"/*.go 2>/dev/null || true; } | sha256sum | cut -c1-12; }
BIN=$CACHE/bin-$(for m in "$MODULES"/*/; do hash_of "$(basename "$m")"; done | sha256sum | cut -c1-12)

program() { # NAME: build it if need be
  local module target
  module=$(module_of "$1")
  [ ! -x "$BIN/$1" ] || return 0
  target=$CACHE/$module-$(hash_of "$module")
  [ -d "$target" ] || build "$module" "$target"
  mkdir -p "$BIN"
  ln -sfn "$target/$1" "$BIN/$1"
}

build() { # MODULE TARGET: into a folder beside it, which appears under its name when it is whole
  command -v go >/dev/null || { echo "cluster: Go is missing; install it (https://go.dev/doc/install), version 1.26 or newer" >&2; exit 1; }
  local start=$SECONDS partial
  mkdir -p "$CACHE"
  exec 9>"$CACHE/$1.lock"
  flock 9 # of two that build the same, one waits
  [ ! -d "$2" ] || { exec 9>&-; return 0; }
  echo "cluster: building $1 (once per version)" >&2
  partial=$(mktemp -d "$CACHE/.partial-XXXXXX")
  if [ -f "$MODULES/$1/main.go" ]; then
    (cd "$MODULES/$1" && CGO_ENABLED=0 go build -trimpath -ldflags "$(flags_of "$1")" -o "$partial/$1" .)
  else
    (cd "$MODULES/$1" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -ldflags "$(flags_of "$1")" -o "$partial/" tool)
  fi 2> >(grep -v '^go: downloading' >&2)
  [ ! -f "$partial/server" ] || mv "$partial/server" "$partial/etcd" # the package of etcd is named server
  chmod 755 "$partial"
  mv "$partial" "$2"
  echo "cluster: built $1 in $((SECONDS - start)) s" >&2
  exec 9>&-
}

image() { # NAME ENTRYPOINT FILES...: an image archive of the cluster's own, written without an engine
  local tar=$BIN/$1.tar
  [ -f "$tar" ] || { python3 "$HERE/mkimage.py" "localhost/kc/$1:1" "$tar.partial" "${@:2}" && mv "$tar.partial" "$tar"; }
}

need_programs() { # everything that `up` needs, and what is named
  local name links
  if [ -n "$CP" ] && [ -n "${KUBEBUILDER_ASSETS:-}" ] && [ -x "$KUBEBUILDER_ASSETS/kube-apiserver" ]; then
    echo "cluster: etcd, kube-apiserver and kubectl from KUBEBUILDER_ASSETS" >&2
    mkdir -p "$BIN"
    for name in etcd kube-apiserver kubectl; do ln -sfn "$KUBEBUILDER_ASSETS/$name" "$BIN/$name"; done
  fi
  for name in etcd kube-apiserver kube-controller-manager kube-scheduler kubectl "$@"; do program "$name"; done
  [ -z "$CP" ] || return 0
  for name in kubelet kube-proxy coredns pause; do program "$name"; done
  image pause /bin/pause "bin/pause=$BIN/pause"
  image coredns /bin/coredns "bin/coredns=$BIN/coredns"
  links=$(/bin/busybox --list | grep -vx busybox | sed 's#.*#bin/&->busybox#')
  # shellcheck disable=SC2086  # one word per link
  image box "" "bin/busybox=/bin/busybox" $links
  # shellcheck disable=SC2086
  [ ! -x "$BIN/local-path-provisioner" ] || image localpath "" "bin/local-path-provisioner=$BIN/local-path-provisioner" "bin/busybox=/bin/busybox" $links
  [ ! -x "$BIN/metrics-server" ] || image metrics-server /bin/metrics-server "bin/metrics-server=$BIN/metrics-server"
}
