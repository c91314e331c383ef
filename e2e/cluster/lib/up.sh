#!/usr/bin/env bash
# Starts the cluster inside a network namespace of its own; `cluster up` calls it. A second run on the same $DIR goes on with the stored state.
set -euo pipefail
HERE=$(cd "$(dirname "$0")/.." && pwd)
. "$HERE/lib/common.sh"
. "$HERE/lib/build.sh"
T0=${EPOCHREALTIME/./}
say() { local us=$((${EPOCHREALTIME/./} - T0)); printf '%4d.%01ds %s\n' $((us / 1000000)) $((us / 100000 % 10)) "$*"; }
mkdir -p "$DIR"/{pki,run,log,containerd,kubelet,podlogs,manifests,cni}

# --- cgroups: one for our daemons (so that down.sh knows its processes), one for the pods -------
mkdir -p "$PROCS/$KC-sys"
for c in $(cgroups); do [ ! -d "$c" ] || mkdir -p "$c/$KC"; done
if [ $CGROUP_VERSION = 2 ]; then echo "+cpu +cpuset +memory +pids +io" > $CG/cgroup.subtree_control 2>/dev/null || true; fi
[ -f "$SYSCTL" ] || sysctl vm.overcommit_memory kernel.panic kernel.panic_on_oops > "$SYSCTL"   # the kubelet sets these
if [ $CGROUP_VERSION = 1 ]; then
  cat $CG/cpuset/cpuset.cpus > $CG/cpuset/$KC/cpuset.cpus
  cat $CG/cpuset/cpuset.mems > $CG/cpuset/$KC/cpuset.mems
fi

# --- network namespace; the host reaches node, pods and services through one veth pair ----------
if [ ! -e /run/netns/$KC ]; then
  ip netns add $KC
  ip link add ${KC}h type veth peer name up0 netns $KC
  ip addr add $HOST_IP/30 dev ${KC}h; ip link set ${KC}h up
  ip -n $KC addr add $NODE_IP/30 dev up0; ip -n $KC link set up0 up; ip -n $KC link set lo up
  ip -n $KC route add $SVC_CIDR dev up0 src $NODE_IP   # apiserver -> service IP needs some route before its DNAT
  ip route add $POD_CIDR via $NODE_IP; ip route add $SVC_CIDR via $NODE_IP
  nsenter --net=/run/netns/$KC sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables'
fi

# run NAME CMD...: start a daemon in the netns and the daemons' cgroup, unless it is running
run() {
  local name=$1; shift
  if ours "$(cat "$DIR/run/$name.pid" 2>/dev/null || echo 0)"; then return; fi
  setsid nsenter --net=/run/netns/$KC sh -c 'echo $$ > "$1"; echo $$ > "$2"; shift 2; exec "$@"' \
    sh "$DIR/run/$name.pid" "$PROCS/$KC-sys/cgroup.procs" "$@" >>"$DIR/log/$name.log" 2>&1 </dev/null &
}
# put FILE: write stdin to it only if that changes it (kube-proxy ends when its file is rewritten); CHANGED tells
put() { cat > "$1.new"; if cmp -s "$1.new" "$1"; then CHANGED=''; rm "$1.new"; else CHANGED=1; mv "$1.new" "$1"; fi; }
# wait_for SECONDS TEXT CMD...
wait_for() {
  local end=$((SECONDS + $1)) what=$2; shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "timed out: $what (logs in $DIR/log)" >&2; exit 1; }
    sleep 0.1
  done
  say "$what"
}

# --- certificates --------------------------------------------------------------------------------
cd "$DIR/pki"
ca() { # NAME
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -subj "/CN=$1" -keyout "$1.key" -out "$1.crt" 2>/dev/null
}
cert() { # FILE SUBJECT CA [SAN]
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "$2" -keyout "$1.key" 2>/dev/null |
    openssl x509 -req -CA "$3.crt" -CAkey "$3.key" -CAcreateserial -days 3650 -out "$1.crt" -extfile <(
      echo "keyUsage=digitalSignature"; echo "extendedKeyUsage=clientAuth,serverAuth"
      [ -z "${4:-}" ] || echo "subjectAltName=$4") 2>/dev/null
}
kubeconfig() { # NAME: uses NAME.crt and NAME.key
  cat > "$DIR/$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
current-context: $KC
clusters: [{name: $KC, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 $1.crt), client-key-data: $(base64 -w0 $1.key)}}]
contexts: [{name: $KC, context: {cluster: $KC, user: $1}}]
Y
  chmod 600 "$DIR/$1.kubeconfig"
}
if [ ! -f done ]; then
  ca ca; ca front-proxy-ca
  openssl ecparam -name prime256v1 -genkey -noout -out sa.key; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
  cert apiserver /CN=kube-apiserver ca "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$NODE_IP,IP:$SVC_API"
  cert apiserver-kubelet-client /O=system:masters/CN=apiserver-kubelet-client ca
  cert front-proxy-client /CN=front-proxy-client front-proxy-ca
  cert kubelet-server /CN=$KC ca "DNS:$KC,IP:$NODE_IP"
  cert admin /O=system:masters/CN=admin ca;                       kubeconfig admin
  cert controller-manager /CN=system:kube-controller-manager ca;  kubeconfig controller-manager
  cert scheduler /CN=system:kube-scheduler ca;                    kubeconfig scheduler
  cert kubelet /O=system:nodes/CN=system:node:$KC ca;             kubeconfig kubelet
  cert kube-proxy /CN=system:kube-proxy ca;                       kubeconfig kube-proxy
  touch done; say certificates
fi

# --- control plane -------------------------------------------------------------------------------
run etcd "$BIN/etcd" --name=$KC --data-dir="$DIR/etcd" --unsafe-no-fsync \
  --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
  --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
  --initial-cluster=$KC=http://127.0.0.1:2380
run apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
  --bind-address=$NODE_IP --advertise-address=$NODE_IP --secure-port=6443 \
  --service-cluster-ip-range=$SVC_CIDR --authorization-mode=Node,RBAC --anonymous-auth=true \
  --enable-admission-plugins=NodeRestriction --allow-privileged=true \
  --client-ca-file=ca.crt --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key \
  --kubelet-certificate-authority=ca.crt --kubelet-client-certificate=apiserver-kubelet-client.crt \
  --kubelet-client-key=apiserver-kubelet-client.key --kubelet-preferred-address-types=InternalIP \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file=sa.pub --service-account-signing-key-file=sa.key \
  --requestheader-client-ca-file=front-proxy-ca.crt --requestheader-allowed-names=front-proxy-client \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file=front-proxy-client.crt --proxy-client-key-file=front-proxy-client.key
wait_for 120 "apiserver /readyz" "$BIN/kubectl" get --raw /readyz
run controller-manager "$BIN/kube-controller-manager" --kubeconfig="$DIR/controller-manager.kubeconfig" \
  --authentication-kubeconfig="$DIR/controller-manager.kubeconfig" \
  --authorization-kubeconfig="$DIR/controller-manager.kubeconfig" --bind-address=127.0.0.1 \
  --use-service-account-credentials=true --service-account-private-key-file=sa.key --root-ca-file=ca.crt \
  --cluster-signing-cert-file=ca.crt --cluster-signing-key-file=ca.key --kube-api-qps=200 --kube-api-burst=400 \
  --leader-elect=false --node-monitor-grace-period=40s --horizontal-pod-autoscaler-sync-period=5s
run scheduler "$BIN/kube-scheduler" --kubeconfig="$DIR/scheduler.kubeconfig" --leader-elect=false \
  --authentication-kubeconfig="$DIR/scheduler.kubeconfig" \
  --authorization-kubeconfig="$DIR/scheduler.kubeconfig" --bind-address=127.0.0.1
wait_for 60 "default service account" "$BIN/kubectl" -n default get serviceaccount default
if [ -n "$CP" ]; then say "control plane is up"; exit; fi

# --- container runtime, with state of its own ----------------------------------------------------
put "$DIR/cni/10-bridge.conflist" <<J
{"cniVersion": "1.0.0", "name": "$KC", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipMasq": false,
   "ipam": {"type": "host-local", "dataDir": "$DIR/ipam", "ranges": [[{"subnet": "$POD_CIDR"}]],
            "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
put "$DIR/containerd.toml" <<T
version = 2
root = "$DIR/containerd/root"
state = "$DIR/containerd/state"
[grpc]
  address = "$SOCK"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/kc/pause:1"
  netns_mounts_under_state_dir = true
  restrict_oom_score_adj = true             # without CAP_SYS_RESOURCE a negative oom_score_adj fails the sandbox
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$DIR/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
T
run containerd containerd --config "$DIR/containerd.toml"
wait_for 30 "containerd" ctr_ version
for i in pause coredns box ${STORAGE:+localpath} ${METRICS:+metrics-server}; do
  ctr_ images ls -q | grep -q "^localhost/kc/$i:1$" || ctr_ images import "$BIN/$i.tar" >/dev/null
done; say "images imported"

# --- node ----------------------------------------------------------------------------------------
: > "$DIR/resolv.conf"   # pods resolve cluster names only; nothing is asked outside
put "$DIR/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
healthzBindAddress: 127.0.0.1
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $DIR/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $DIR/pki/kubelet-server.crt
tlsPrivateKeyFile: $DIR/pki/kubelet-server.key
containerRuntimeEndpoint: unix://$SOCK
cgroupDriver: cgroupfs
cgroupRoot: /$KC
failCgroupV1: false
failSwapOn: false
clusterDNS: [$SVC_DNS]
clusterDomain: cluster.local
resolvConf: $DIR/resolv.conf
podLogsDir: $DIR/podlogs
volumePluginDir: $DIR/kubelet/volume-plugins
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 500Mi, imagefs.available: 500Mi}
${PRESSURE:+evictionSoft: {memory.available: 1Ti\}
evictionSoftGracePeriod: {memory.available: 1s\}}
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
serializeImagePulls: false
Y
[ -z "$CHANGED" ] || stop kubelet   # one that runs has read the other; the pods go on without it
run kubelet "$BIN/kubelet" --config="$DIR/kubelet.yaml" --kubeconfig="$DIR/kubelet.kubeconfig" \
  --root-dir="$DIR/kubelet" --hostname-override=$KC --node-ip=$NODE_IP
put "$DIR/kube-proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ${PROXY_MODE:-iptables}
clientConnection: {kubeconfig: $DIR/kube-proxy.kubeconfig}
hostnameOverride: $KC
clusterCIDR: $POD_CIDR
nodePortAddresses: [$NODE_IP/32]
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
conntrack: {maxPerCore: 0, min: 0, tcpCloseWaitTimeout: 0s, tcpEstablishedTimeout: 0s}
Y
run kube-proxy "$BIN/kube-proxy" --config="$DIR/kube-proxy.yaml"
sed "s/@SVC_DNS@/$SVC_DNS/" "$HERE/lib/coredns.yaml" | "$BIN/kubectl" apply --server-side -f - >/dev/null
wait_for 30 "kube-proxy" nsenter --net=/run/netns/$KC curl -sf --noproxy '*' http://127.0.0.1:10256/healthz
wait_for 60 "node Ready" sh -c "'$BIN/kubectl' get node $KC | grep -qw Ready"
wait_for 90 "CoreDNS" "$BIN/kubectl" -n kube-system rollout status deploy/coredns --timeout=1s
[ -z "${STORAGE:-}" ] || sed "s#@DIR@#$DIR#" "$HERE/lib/local-path.yaml" | "$BIN/kubectl" apply --server-side -f - >/dev/null
[ -z "${METRICS:-}" ] || "$BIN/kubectl" apply --server-side -f "$HERE/lib/metrics-server.yaml" >/dev/null
say "cluster is up"
