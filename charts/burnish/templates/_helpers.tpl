{{- define "burnish.common" -}}
app.kubernetes.io/name: burnish
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "burnish.release" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "burnish.selector" -}}
{{ include "burnish.common" . }}
app.kubernetes.io/component: controller
{{- end }}

{{- define "burnish.labels" -}}
{{ include "burnish.selector" . }}
{{ include "burnish.release" . }}
{{- end }}

{{- define "burnish.sweepSelector" -}}
{{ include "burnish.common" . }}
app.kubernetes.io/component: sweep
{{- end }}

{{- define "burnish.sweepLabels" -}}
{{ include "burnish.sweepSelector" . }}
{{ include "burnish.release" . }}
{{- end }}

{{- define "burnish.sweep" -}}
{{- printf "%s-sweep" (.Release.Name | trunc 40 | trimSuffix "-") }}
{{- end }}

{{- define "burnish.name" -}}
{{- printf "%s-controller" (.Release.Name | trunc 40 | trimSuffix "-") }}
{{- end }}

{{- /* What has no default: a sentence each, instead of a pod that can't start. */}}
{{- define "burnish.check" -}}
{{- $images := dict "burnish" .Values.images.burnish "triton" .Values.images.triton "optimizers.onnx" (.Values.images.optimizers).onnx }}
{{- range $name, $image := $images }}
{{- if not $image }}
{{- fail (printf "images.%s is empty; name the image that the cluster's nodes can pull: --set images.%s=REGISTRY/NAME:TAG (docs/install.md)" $name $name) }}
{{- end }}
{{- end }}
{{- if and .Values.store.uri .Values.store.volume.enabled }}
{{- fail "store.uri and store.volume.enabled are both set; keep one: an object store or a volume" }}
{{- end }}
{{- if not (or .Values.store.uri .Values.store.volume.enabled) }}
{{- fail "there is no store; set store.uri=s3://BUCKET/PREFIX, or store.volume.enabled=true" }}
{{- end }}
{{- end }}

{{- define "burnish.settings" -}}
images:
  burnish: {{ .Values.images.burnish | quote }}
  optimizers: {{- toYaml .Values.images.optimizers | nindent 4 }}
  triton: {{ .Values.images.triton | quote }}
  servingImage: {{ .Values.images.servingImage | quote }}
  pullPolicy: {{ .Values.images.pullPolicy | quote }}
  pullSecrets: {{- toYaml .Values.images.pullSecrets | nindent 4 }}
store:
  {{- if .Values.store.uri }}
  uri: {{ .Values.store.uri | quote }}
  {{- end }}
  secretName: {{ .Values.store.secretName | quote }}
  egressCidrs: {{- toYaml .Values.store.egressCidrs | nindent 4 }}
  egressPorts: {{- toYaml .Values.store.egressPorts | nindent 4 }}
  {{- with .Values.store.volume }}
  {{- if .enabled }}
  volume:
    claimName: {{ .claimName | quote }}
    size: {{ .size | quote }}
    accessMode: {{ .accessMode | quote }}
    {{- if .storageClassName }}
    storageClassName: {{ .storageClassName | quote }}
    {{- end }}
  {{- end }}
  {{- end }}
cluster: {{ .Values.cluster | quote }}
watchNamespaces: {{- toYaml .Values.watchNamespaces | nindent 2 }}
leaseNamespace: {{ .Release.Namespace | quote }}
leaseName: {{ include "burnish.name" . | quote }}
{{- range $step, $resources := .Values.steps }}
{{ $step }}:
  {{- range $name, $value := $resources }}
  {{ $name }}: {{ $value | quote }}
  {{- end }}
{{- end }}
workSize: {{ .Values.workSize | quote }}
{{- with .Values.proxy.https }}
proxy:
  https: {{ . | quote }}
  noProxy: {{ $.Values.proxy.noProxy | quote }}
{{- end }}
allowPrivateAddresses: {{ .Values.allowPrivateAddresses }}
trustedNamespaces: {{- toYaml .Values.trustedNamespaces | nindent 2 }}
hardwareMismatch: {{ .Values.hardwareMismatch | quote }}
rolloutTimeout: {{ .Values.rolloutTimeout | quote }}
drain: {{ .Values.drain | quote }}
resync: {{ .Values.resync | quote }}
workers: {{ .Values.workers }}
{{- end }}

{{- /* What the controller may do with what belongs to a resource. It reads no Secret. */}}
{{- define "burnish.rules" -}}
- apiGroups: [burnish.dev]
  resources: [optimizedmodels]
  verbs: [get, list, watch]
- apiGroups: [burnish.dev]
  resources: [optimizedmodels/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, delete, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, delete, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
{{- if .Values.store.volume.enabled }}
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
{{- end }}
{{- end }}
