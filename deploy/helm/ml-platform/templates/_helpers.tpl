{{- define "ml-platform.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "ml-platform.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "ml-platform.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/part-of: ml-platform
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Labels by which objects find the pods of a component: (dict "root" $ "name" "webserver"). */}}
{{- define "ml-platform.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .name }}
{{- end -}}

{{- define "ml-platform.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "ml-platform.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Resources of a container, with its GPUs: (dict "resources" {...} "gpus" 1 "gpuResource" "nvidia.com/gpu"). */}}
{{- define "ml-platform.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .gpus -}}
{{- $limits := set ($resources.limits | default dict) .gpuResource (.gpus | int) -}}
{{- $_ := set $resources "limits" $limits -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Node selector and tolerations of a pod: those of its component, and those of GPU nodes if it needs one. */}}
{{- define "ml-platform.placement" -}}
{{- $selector := merge (dict) (.component.nodeSelector | default dict) (ternary .root.Values.gpu.nodeSelector dict (gt (int .gpus) 0)) -}}
{{- $tolerations := concat (.component.tolerations | default list) (ternary .root.Values.gpu.tolerations list (gt (int .gpus) 0)) -}}
{{- with $selector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Environment of every process of the platform. Secrets are files that cluster.yaml names. */}}
{{- define "ml-platform.environment" -}}
- {name: ML_PLATFORM_PROFILE, value: {{ .Values.profile }}}
- {name: ML_PLATFORM_HOME, value: {{ .Values.home.path }}}
- {name: DAGSTER_HOME, value: {{ .Values.home.path }}/dagster}
{{- if eq .Values.profile "cluster" }}
- {name: ML_PLATFORM_CLUSTER_FILE, value: /etc/ml-platform/cluster.yaml}
{{- end }}
- {name: HOME, value: /tmp}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
{{- with .Values.environment }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "ml-platform.volumeMounts" -}}
- {name: home, mountPath: {{ .Values.home.path }}}
- {name: temporary, mountPath: /tmp}
- {name: settings, mountPath: /etc/ml-platform, readOnly: true}
{{- if .Values.secrets.name }}
- {name: secrets, mountPath: {{ .Values.secrets.path }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "ml-platform.volumes" -}}
- name: home
  persistentVolumeClaim: {claimName: {{ .Values.home.existingClaim | default (printf "%s-home" (include "ml-platform.fullname" .)) }}}
- name: temporary
  emptyDir: {sizeLimit: {{ .Values.temporarySize }}}
- name: settings
  configMap: {name: {{ include "ml-platform.fullname" . }}-settings}
{{- if .Values.secrets.name }}
- name: secrets
  secret: {secretName: {{ .Values.secrets.name }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* The pod of a component: (dict "root" $ "name" … "component" {…} "containers" "text" "gpus" 0 "restart" "Always"). */}}
{{- define "ml-platform.pod" -}}
metadata:
  labels:
    {{- include "ml-platform.labels" .root | nindent 4 }}
    {{- include "ml-platform.selector" . | nindent 4 }}
  annotations:
    ml-platform/settings: {{ include (print .root.Template.BasePath "/settings.yaml") .root | sha256sum }}
spec:
  {{- if not .ownAccount }}
  serviceAccountName: {{ include "ml-platform.fullname" .root }}
  automountServiceAccountToken: false
  {{- end }}
  enableServiceLinks: false
  {{- with .root.Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .restart }}
  restartPolicy: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ .component.terminationGracePeriodSeconds | default 60 }}
  securityContext: {{- include "ml-platform.podSecurity" .root.Values.user | nindent 4 }}
  {{- with include "ml-platform.placement" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if not .restart }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "ml-platform.selector" . | nindent 10 }}
  {{- end }}
  {{- if .prepare }}
  initContainers:
    # Creates or migrates the home and writes dagster.yaml; the same when it is repeated.
    - name: prepare
      image: {{ include "ml-platform.image" .root }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      command: [ml-platform, status, --json]
      env: {{- include "ml-platform.environment" .root | nindent 8 }}
      resources: {{- toYaml .root.Values.prepare.resources | nindent 8 }}
      securityContext: {{- include "ml-platform.containerSecurity" . | nindent 8 }}
      volumeMounts: {{- include "ml-platform.volumeMounts" .root | nindent 8 }}
  {{- end }}
  containers:
    {{- .containers | nindent 4 }}
  volumes: {{- include "ml-platform.volumes" .root | nindent 4 }}
{{- end -}}

{{/* What all containers of the platform's image share. */}}
{{- define "ml-platform.container" -}}
image: {{ include "ml-platform.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
env:
  {{- include "ml-platform.environment" .root | nindent 2 }}
  {{- with .environment }}
  {{- . | nindent 2 }}
  {{- end }}
resources: {{- include "ml-platform.resources" (dict "resources" .component.resources "gpus" (.gpus | default 0) "gpuResource" .root.Values.gpu.resource) | nindent 2 }}
securityContext: {{- include "ml-platform.containerSecurity" . | nindent 2 }}
volumeMounts: {{- include "ml-platform.volumeMounts" .root | nindent 2 }}
{{- end -}}

{{/* A Deployment of one container: adds "replicas" and "strategy" to the arguments of ml-platform.pod. */}}
{{- define "ml-platform.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "ml-platform.fullname" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "ml-platform.labels" .root | nindent 4 }}
    {{- include "ml-platform.selector" . | nindent 4 }}
spec:
  {{- if not .autoscaled }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy: {type: {{ .strategy | default "RollingUpdate" }}}
  selector:
    matchLabels: {{- include "ml-platform.selector" . | nindent 6 }}
  template: {{- include "ml-platform.pod" . | nindent 4 }}
{{- end -}}

{{- define "ml-platform.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "ml-platform.fullname" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "ml-platform.labels" .root | nindent 4 }}
    {{- include "ml-platform.selector" . | nindent 4 }}
spec:
  type: ClusterIP
  selector: {{- include "ml-platform.selector" . | nindent 4 }}
  ports:
    - {name: {{ .portName | default "http" }}, port: {{ .port }}, targetPort: {{ .portName | default "http" }}, protocol: TCP}
{{- end -}}
