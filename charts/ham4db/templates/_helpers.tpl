{{- define "ham4db.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* Cut at 40: StatefulSets put the name, an ordinal and a revision hash into a label of 63 letters. */}}
{{- define "ham4db.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "ham4db.name" . -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "ham4db.peers" -}}
{{ include "ham4db.fullname" . }}-peers
{{- end }}

{{- define "ham4db.bootstrap" -}}
{{ include "ham4db.fullname" . }}-bootstrap
{{- end }}

{{/* Immutable on a StatefulSet: nothing that changes with a version may come in here. */}}
{{- define "ham4db.selector" -}}
app.kubernetes.io/name: {{ include "ham4db.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ham4db.labels" -}}
{{ include "ham4db.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ham4db
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "ham4db.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.image.registry | default (.Values.global).imageRegistry }}{{ $repository = printf "%s/%s" . $repository }}{{ end -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "ham4db.pullSecrets" -}}
{{- with concat ((.Values.global).imagePullSecrets | default list) .Values.imagePullSecrets | uniq }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Of the pod of `helm test`, which the NetworkPolicy lets in. */}}
{{- define "ham4db.testSelector" -}}
app.kubernetes.io/name: {{ include "ham4db.name" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ham4db.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "ham4db.fullname" .) }}
{{- else -}}
{{ .Values.serviceAccount.name | default "default" }}
{{- end -}}
{{- end }}

{{- define "ham4db.groupKeySecret" -}}
{{ .Values.groupKey.existingSecret | default (printf "%s-group-key" (include "ham4db.fullname" .)) }}
{{- end }}

{{- define "ham4db.apiTokenSecret" -}}
{{ .Values.apiToken.existingSecret | default (printf "%s-api-token" (include "ham4db.fullname" .)) }}
{{- end }}

{{- define "ham4db.apiTokenFile" -}}
/etc/ham4db/api-token
{{- end }}

{{/* The name of the port that probes and scrapes use. */}}
{{- define "ham4db.healthPort" -}}
{{- ternary "health" "http" (gt (int .Values.health.port) 0) -}}
{{- end }}

{{/* true when resources of every namespace are watched. */}}
{{- define "ham4db.watchesAll" -}}
{{- if has "*" (.Values.watchNamespaces | default list) }}true{{ end -}}
{{- end }}

{{/* What the controller needs in a watched namespace. Secrets by name only: a list or watch that names one object by
     fieldSelector passes, any other is refused. */}}
{{- define "ham4db.watchRules" -}}
- apiGroups: [ham4db.io]
  resources: [mysqlclusters]
  verbs: [get, list, watch]
- apiGroups: [ham4db.io]
  resources: [mysqlclusters/status]
  verbs: [get, patch, update]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if .Values.primaryService.enabled }}
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, create, patch, delete]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, create, patch, delete]
{{- end }}
{{- if or .Values.drain.enabled .Values.podRoleLabels.enabled }}
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch{{ if .Values.podRoleLabels.enabled }}, patch{{ end }}]
{{- end }}
{{- with .Values.credentialSecrets }}
- apiGroups: [""]
  resources: [secrets]
  resourceNames: {{ toJson . }}
  verbs: [get, list, watch]
{{- end }}
{{- end }}
