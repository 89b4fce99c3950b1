{{/* All configuration keys that the chart sets, in one place. The members' own addresses are not among them: each derives
     its peer and API address from its pod name (HAM4DB_POD_NAME, HAM4DB_POD_NAMESPACE) and the peers Service. */}}
{{- define "ham4db.config" -}}
{{- $statefulSet := dict
      "Name" (include "ham4db.fullname" .)
      "Namespace" .Release.Namespace
      "ServiceName" (include "ham4db.peers" .)
      "Replicas" (int .Values.replicas) -}}
{{- with .Values.clusterDomain }}{{ $_ := set $statefulSet "ClusterDomain" . }}{{ end -}}
{{- $config := dict
      "ListenAddress" ":3000"
      "BackendDB" "sqlite"
      "SQLite3DataFile" "/var/lib/ham4db/ham4db.sqlite3"
      "RaftEnabled" true
      "RaftBind" "0.0.0.0:10008"
      "DefaultRaftPort" 10008
      "RaftDataDir" "/var/lib/ham4db/raft"
      "RaftGroupKeyFile" "/etc/ham4db/group-key"
      "RaftStatefulSet" $statefulSet
      "MemberDataCenter" "${HAM4DB_DATA_CENTER}"
      "Kubernetes" (dict
        "Enabled" .Values.controller.enabled
        "Namespace" .Release.Namespace
        "WatchNamespaces" (.Values.watchNamespaces | default list)
        "Drain" .Values.drain.enabled
        "PodRoleLabels" .Values.podRoleLabels.enabled) -}}
{{- with .Values.health.port }}{{ $_ := set $config "HealthListenAddress" (printf ":%d" (int .)) }}{{ end -}}
{{- if .Values.apiToken.enabled }}{{ $_ := set $config "APIWriteTokenFile" (include "ham4db.apiTokenFile" .) }}{{ else }}{{ $_ := set $config "APIOpen" true }}{{ end -}}
{{- $owned := list "listenaddress" "healthlistenaddress" "apiwritetokenfile" "apiopen" "raftinsecure" "httpadvertise" "raftenabled" "raftbind" "raftadvertise" "defaultraftport" "raftnodes" "raftgroupkeyfile" "raftstatefulset" "kubernetes" -}}
{{- range $key, $value := .Values.config -}}
{{- if has (lower $key) $owned -}}
{{- fail (printf "config.%s: Services, probes and members rely on what the chart sets there" $key) -}}
{{- end -}}
{{- if and (regexMatch "(?i)(password|acltoken|secret)$" $key) (ne (toString $value) "") (not (regexMatch "^\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}$" (toString $value))) -}}
{{- fail (printf "config.%s: it would be readable by every account that may read ConfigMaps. Write ${NAME}, and bring NAME from a Secret by extraEnv" $key) -}}
{{- end -}}
{{- /* The case of keys does not matter to the program: one key in two cases must not come out twice. */ -}}
{{- range $ours := keys $config -}}
{{- if eq (lower $ours) (lower $key) }}{{ $_ := unset $config $ours }}{{ end -}}
{{- end -}}
{{- $_ := set $config $key $value -}}
{{- end -}}
{{- toPrettyJson $config -}}
{{- end }}

{{/* What paths begin with: config.URLPrefix as the program reads it, "" or "/x". */}}
{{- define "ham4db.urlPrefix" -}}
{{- range $key, $value := .Values.config -}}
{{- if eq (lower $key) "urlprefix" }}{{ with $value | trimAll "/" }}/{{ . }}{{ end }}{{ end -}}
{{- end -}}
{{- end }}

{{/* The number of members is left out: a scaled group is told by its StatefulSet, and must not be rolled for it. */}}
{{- define "ham4db.configChecksum" -}}
{{- $config := include "ham4db.config" . | fromJson -}}
{{- $_ := unset $config.RaftStatefulSet "Replicas" -}}
{{- toJson $config | sha256sum -}}
{{- end }}
