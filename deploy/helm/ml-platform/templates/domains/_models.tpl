{{- define "ml-platform.namespace" -}}
{{- $declared := index .root.Values.domains .domain -}}
{{- $declared.namespace | default (printf "%s%s" .root.Values.domainDefaults.namespacePrefix (.domain | replace "_" "-")) -}}
{{- end -}}

{{/* The name of a service: (dict "model" "credit.default" "bento" "4-ab12"). */}}
{{- define "ml-platform.serviceName" -}}
{{- printf "%s-%s" (.model | replace "_" "-" | replace "." "-") .bento -}}
{{- end -}}

{{/* The settings of a model: the defaults with those of the model. */}}
{{- define "ml-platform.modelSettings" -}}
{{- toYaml (mergeOverwrite (deepCopy .root.Values.modelDefaults) (deepCopy .declared)) -}}
{{- end -}}

{{/* The pod of a version: (dict "root" $ "domain" … "model" … "settings" {…} "served" {version, bento}). */}}
{{- define "ml-platform.modelPod" -}}
serviceAccountName: models
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
# A pod that ends is out of the endpoints first, and then has this time for the requests under way.
terminationGracePeriodSeconds: 90
securityContext: {{- include "ml-platform.podSecurity" .settings.user | nindent 2 }}
{{- with include "ml-platform.placement" (dict "root" .root "component" .settings "gpus" (.settings.gpus | int)) | trim }}
{{- . | nindent 0 }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector: {matchLabels: {ml-platform/service: {{ include "ml-platform.serviceName" (dict "model" .model "bento" .served.bento) }}}}
containers:
  - name: kserve-container
    image: {{ .settings.image | default (printf "%s/%s:%s" (.root.Values.bentoRegistry | trimSuffix "/") .model .served.bento) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    # The entry point of an image that `bentoml containerize` builds.
    args: [serve, --host, 0.0.0.0, --port, "3000"]
    ports: [{name: http1, containerPort: 3000, protocol: TCP}]
    env:
      - {name: BENTOML_DO_NOT_TRACK, value: "True"}
      - {name: BENTOML_HOME, value: /tmp/bentoml}
      - {name: HOME, value: /tmp}
      - {name: OMP_NUM_THREADS, value: "1"}
      - name: ML_PLATFORM_ONLINE
        valueFrom: {secretKeyRef: {name: {{ .settings.onlineSecret.name }}, key: {{ .settings.onlineSecret.key }}}}
      {{- if .settings.predictionLog.claimName }}
      - {name: ML_PLATFORM_PREDICTION_LOG, value: /var/lib/ml-platform/predictions/{{ .model }}}
      - {name: ML_PLATFORM_PII_KEY_FILE, value: /var/lib/ml-platform/pii/pii.key}
      {{- end }}
    startupProbe: {httpGet: {path: /readyz, port: 3000}, periodSeconds: 2, failureThreshold: 90}
    readinessProbe: {httpGet: {path: /readyz, port: 3000}, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 2}
    livenessProbe: {httpGet: {path: /livez, port: 3000}, periodSeconds: 15, timeoutSeconds: 5, failureThreshold: 4}
    lifecycle: {preStop: {sleep: {seconds: 5}}}
    resources: {{- include "ml-platform.resources" (dict "resources" .settings.resources "gpus" .settings.gpus "gpuResource" .root.Values.gpu.resource) | nindent 6 }}
    securityContext: {{- include "ml-platform.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: temporary, mountPath: /tmp}
      {{- if .settings.predictionLog.claimName }}
      - {name: predictions, mountPath: /var/lib/ml-platform/predictions, subPath: {{ .settings.predictionLog.subPath }}}
      - {name: pii, mountPath: /var/lib/ml-platform/pii, readOnly: true}
      {{- end }}
volumes:
  - {name: temporary, emptyDir: {sizeLimit: 1Gi}}
  {{- if .settings.predictionLog.claimName }}
  - {name: predictions, persistentVolumeClaim: {claimName: {{ .settings.predictionLog.claimName }}}}
  # The key by which the log hashes values that identify a person.
  - {name: pii, secret: {secretName: {{ .settings.predictionLog.piiSecret }}, defaultMode: 0440}}
  {{- end }}
{{- end -}}

{{- define "ml-platform.modelLabels" -}}
ml-platform/domain: {{ .domain }}
ml-platform/model: {{ .model }}
ml-platform/version: {{ .served.version | quote }}
ml-platform/service: {{ include "ml-platform.serviceName" (dict "model" .model "bento" .served.bento) }}
{{- end -}}
