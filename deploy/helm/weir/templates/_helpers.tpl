{{/* What the webhook is called. */}}
{{- define "weir.webhook" -}}
{{ .Values.name }}-webhook
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/component: webhook
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "weir.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* Namespaces of which the webhook is never asked. */}}
{{- define "weir.never" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    {{- range append .Values.webhook.excludedNamespaces .Release.Namespace | uniq }}
    - {{ . | quote }}
    {{- end }}
{{- end }}

{{/* What `weir webhook` is told. What is as it is anyway is left out. */}}
{{- define "weir.arguments" -}}
{{- $injection := .Values.injection }}
{{- $redirect := $injection.redirect }}
{{- $requests := $injection.resources.requests | default dict }}
{{- $limits := $injection.resources.limits | default dict }}
- webhook
- --listen={{ .Values.address }}:{{ .Values.port }}
{{- if .Values.certManager.enabled }}
- --cert=/etc/weir-webhook/tls.crt
- --key=/etc/weir-webhook/tls.key
{{- else }}
- --own-certificate
- --service={{ include "weir.webhook" . }}
- --secret={{ include "weir.webhook" . }}-ca
- --configuration={{ .Values.name }}
{{- end }}
- --json
- {{ printf "--own-log=%s" .Values.log | quote }}
- {{ printf "--image=%s" ($injection.image | default (include "weir.image" .)) | quote }}
{{- with $injection.pullPolicy }}
- --pull-policy={{ . }}
{{- end }}
{{- if eq $injection.sidecar "classic" }}
- --classic
{{- end }}
{{- with $injection.configMap }}
- --config-map={{ . }}
{{- end }}
{{- with $injection.log }}
- {{ printf "--log=%s" . | quote }}
{{- end }}
{{- if not $injection.rewriteProbes }}
- --keep-probes
{{- end }}
{{- with $injection.identitySecret }}
- --identity-secret={{ . }}
{{- end }}
{{- with $injection.workloadApi }}
- {{ printf "--workload-api=%s" . | quote }}
{{- end }}
{{- with $injection.opaquePorts }}
- --opaque-ports={{ join "," . }}
{{- end }}
{{- with $injection.waitBeforeExit }}
- --wait-before-exit={{ int64 . }}
{{- end }}
- --cpu-request={{ $requests.cpu | default "" }}
{{- with $limits.cpu }}
- --cpu-limit={{ . }}
{{- end }}
- --memory-request={{ $requests.memory | default "" }}
- --memory-limit={{ $limits.memory | default "" }}
{{- if not $redirect.enabled }}
- --no-redirect
{{- end }}
{{- if ne (int64 $redirect.outboundPort) 15001 }}
- --outbound-port={{ int64 $redirect.outboundPort }}
{{- end }}
{{- if ne (int64 $redirect.inboundPort) 15006 }}
- --inbound-port={{ int64 $redirect.inboundPort }}
{{- end }}
{{- range $key, $option := dict "includeInboundPorts" "include-inbound-ports" "excludeInboundPorts" "exclude-inbound-ports"
      "excludeInboundCidrs" "exclude-inbound-cidrs" "includeOutboundPorts" "include-outbound-ports"
      "excludeOutboundPorts" "exclude-outbound-ports" "includeOutboundCidrs" "include-outbound-cidrs"
      "excludeOutboundCidrs" "exclude-outbound-cidrs" "excludeInterfaces" "exclude-interfaces" }}
{{- with index $redirect $key }}
- --{{ $option }}={{ join "," . }}
{{- end }}
{{- end }}
{{- range .Values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{/* What cannot work together. */}}
{{- define "weir.check" -}}
{{- if and (eq .Values.injection.sidecar "native") (semverCompare "<1.29-0" .Capabilities.KubeVersion.Version) }}
{{- fail (printf "native sidecars need Kubernetes 1.29, and this is %s: set injection.sidecar to classic" .Capabilities.KubeVersion.Version) }}
{{- end }}
{{- if and .Values.certManager.issuerRef (not .Values.certManager.issuerRef.name) }}
{{- fail "certManager.issuerRef has no name" }}
{{- end }}
{{- end }}
