variable "region" {
  description = "Region of all resources."
  type        = string
  default     = "eu-central-1"
}

variable "name" {
  description = "Prefix of all names."
  type        = string
  default     = "ml-platform"
}

variable "cidr" {
  description = "Addresses of the network, a /16."
  type        = string
  default     = "10.42.0.0/16"
}

variable "kubernetes_version" {
  description = "Version of the cluster."
  type        = string
  default     = "1.35"
}

variable "administrators" {
  description = "ARNs of the IAM roles that administer the cluster."
  type        = list(string)
}

variable "gpu_instance_types" {
  description = "Machines of the GPU nodes, which are spot machines; several types find capacity more often."
  type        = list(string)
  default     = ["g6.2xlarge", "g5.2xlarge"]
}

variable "gpu_nodes_at_most" {
  description = "GPU nodes at most; there is none without a pod that needs one."
  type        = number
  default     = 2
}

variable "spot_nodes_at_most" {
  description = "Spot nodes without GPU at most, for fits and other work that may be repeated."
  type        = number
  default     = 6
}

variable "namespace" {
  description = "Namespace of the release of the chart."
  type        = string
  default     = "ml-platform"
}

variable "release" {
  description = "Name of the release of the chart; with the name ml-platform, so is its service account."
  type        = string
  default     = "ml-platform"
}
