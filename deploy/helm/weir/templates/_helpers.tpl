{{/* Labels that never change: selectors are made of them. */}}
{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
{{- end }}

{{/* Labels of every object. */}}
{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "weir.agentImage" -}}
{{- with .Values.image -}}
{{ .repository }}/weir-agent{{ if .agentDigest }}@{{ .agentDigest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "weir.proxyImage" -}}
{{- with .Values.image -}}
{{ .repository }}/weir-proxy{{ if .proxyDigest }}@{{ .proxyDigest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{/* agent.toml. A list in JSON is a list in TOML, and so is a string. */}}
{{- define "weir.agentConfig" -}}
log = {{ .Values.agent.log | toJson }}
{{- with .Values.agent.workers }}
workers = {{ . }}
{{- end }}
state = "/run/weir"

[paths]
cgroup2 = "/host/cgroup"
proc = "/host/proc"

[node_processes]
pods_cgroup = "auto"

[redirect]
exclude_outbound_cidrs = {{ .Values.redirect.excludeOutboundCidrs | toJson }}
exclude_outbound_ports = {{ .Values.redirect.excludeOutboundPorts | toJson }}
exclude_inbound_ports = {{ .Values.redirect.excludeInboundPorts | toJson }}
drain = {{ .Values.redirect.drain | toJson }}

[source.kubernetes]
istio_labels = {{ .Values.enroll.istioLabels }}

[cni]
enabled = {{ .Values.cni.enabled }}
conf_dir = "/host/etc/cni/net.d"
bin_dir = "/host/opt/cni/bin"
state_dir = "/host/var/lib/weir"
host_state_dir = {{ .Values.host.state | toJson }}

[keeper]
enabled = {{ .Values.keeper.enabled }}
patience = {{ .Values.keeper.patience | toJson }}

[health]
{{- with .Values.agent.healthAddress }}
address = {{ printf (contains ":" . | ternary "[%s]:15021" "%s:15021") . | toJson }}
{{- end }}

[seccomp]
profile = "/host/var/lib/kubelet/seccomp/weir/proxy.json"
{{- end }}

{{/* Milliseconds of a duration as Prometheus writes it; 0 of none. */}}
{{- define "weir.milliseconds" -}}
{{- $text := . | default "" }}
{{- $sum := 0 }}
{{- range $unit, $each := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 }}
{{- with regexFind (printf "[0-9]+%s([0-9]|$)" $unit) $text }}
{{- $sum = add $sum (mul (regexFind "^[0-9]+" .) $each) }}
{{- end }}
{{- end }}
{{- $sum }}
{{- end }}
