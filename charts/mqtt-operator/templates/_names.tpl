{{- define "mqtt-operator.labels" -}}
app.kubernetes.io/name: mqtt-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "mqtt-operator.selector" -}}
app.kubernetes.io/name: mqtt-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "mqtt-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "mqtt-operator.brokerImage" -}}
{{- with .Values.brokerImage -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{/* What the operator may do in a namespace it looks after. Each rule says why. */}}
{{- define "mqtt-operator.rules" -}}
# The resources themselves: read, and followed.
- apiGroups: ["mqttbroker.dev"]
  resources: ["mqttbrokers"]
  verbs: ["list", "watch"]
# What is said about them.
- apiGroups: ["mqttbroker.dev"]
  resources: ["mqttbrokers/status"]
  verbs: ["patch"]
# Children carry an owner reference that blocks the owner's deletion, which the API server allows only with this.
- apiGroups: ["mqttbroker.dev"]
  resources: ["mqttbrokers/finalizers"]
  verbs: ["update"]
# The pods' set. Server-side apply is a patch, and needs "create" where nothing is there yet; "get" is for the look at a name
# before something is made under it.
- apiGroups: ["apps"]
  resources: ["statefulsets"]
  verbs: ["get", "list", "watch", "create", "patch"]
# The Services, the configuration, the Secrets that the operator makes, the identity of the pods.
- apiGroups: [""]
  resources: ["services", "configmaps", "secrets", "serviceaccounts"]
  verbs: ["get", "list", "watch", "create", "patch"]
# The budget; deleted when a broker shrinks to one replica.
- apiGroups: ["policy"]
  resources: ["poddisruptionbudgets"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# Who may reach the pods.
- apiGroups: ["networking.k8s.io"]
  resources: ["networkpolicies"]
  verbs: ["get", "list", "watch", "create", "patch"]
# Who collects metrics, where Kubernetes knows such objects; deleted when that is not wanted any more.
- apiGroups: ["monitoring.coreos.com"]
  resources: ["podmonitors"]
  verbs: ["get", "list", "watch", "create", "patch", "delete"]
# Pods are looked at for readiness, and deleted one at a time to be rolled.
- apiGroups: [""]
  resources: ["pods"]
  verbs: ["list", "watch", "delete"]
# Volume claims grow, and that of a broker that has left the cluster is deleted.
- apiGroups: [""]
  resources: ["persistentvolumeclaims"]
  verbs: ["list", "watch", "patch", "delete"]
# The main steps are told as Events.
- apiGroups: ["events.k8s.io"]
  resources: ["events"]
  verbs: ["create"]
{{- end }}
