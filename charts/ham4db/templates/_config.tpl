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
        "WatchNamespaces" (.Values.watchNamespaces | default list)) -}}
{{- toPrettyJson (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end }}

{{/* The number of members is left out: a scaled group is told by its StatefulSet, and must not be rolled for it. */}}
{{- define "ham4db.configChecksum" -}}
{{- $config := include "ham4db.config" . | fromJson -}}
{{- $_ := unset $config.RaftStatefulSet "Replicas" -}}
{{- toJson $config | sha256sum -}}
{{- end }}
