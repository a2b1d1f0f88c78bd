{{- define "hubcap.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "hubcap.fullname" -}}
{{- $name := include "hubcap.name" . }}
{{- $default := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) }}
{{- .Values.fullnameOverride | default $default | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "hubcap.selector" -}}
app.kubernetes.io/name: {{ include "hubcap.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "hubcap.labels" -}}
{{ include "hubcap.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 }}
{{- end }}

{{- define "hubcap.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* The mirror ports of the pods, by the names that the headless service gives them. */ -}}
{{- define "hubcap.site" -}}
{{- $boxes := list }}
{{- range $i := until (int .Values.replicas) }}
{{- $boxes = append $boxes (printf "%s://%s-%d.%s-pods.%s.svc:5000" (lower (include "hubcap.scheme" $)) (include "hubcap.fullname" $) $i (include "hubcap.fullname" $) $.Release.Namespace) }}
{{- end }}
{{- join "," $boxes }}
{{- end }}

{{- define "hubcap.scheme" -}}
{{ ternary "HTTPS" "HTTP" (ne .Values.tls.secretName "") }}
{{- end }}
