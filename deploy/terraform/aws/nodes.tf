data "aws_iam_policy_document" "ec2" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Nodes pull images and join the cluster; pods have identities of their own.
resource "aws_iam_role" "node" {
  name               = "${var.name}-node"
  assume_role_policy = data.aws_iam_policy_document.ec2.json
}

resource "aws_iam_role_policy_attachment" "node" {
  for_each   = toset(["AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonEKS_CNI_Policy"])
  role       = aws_iam_role.node.name
  policy_arn = "arn:aws:iam::aws:policy/${each.value}"
}

locals {
  pools = {
    # Webserver, daemon, MLflow and model services: they stay.
    steady = { capacity = "ON_DEMAND", types = ["m7i.xlarge"], ami = "AL2023_x86_64_STANDARD", least = 2, most = 6, labels = {}, taints = [] }
    # Fits and other work that is repeated when its machine goes away.
    spot = { capacity = "SPOT", types = ["m7i.4xlarge", "m6i.4xlarge", "m7a.4xlarge"], ami = "AL2023_x86_64_STANDARD", least = 0, most = var.spot_nodes_at_most, labels = { "ml-platform/capacity" = "spot" }, taints = [{ key = "ml-platform/spot", value = "true" }] }
    # The labels and taints are those of `gpu` in the values of the chart.
    gpu = { capacity = "SPOT", types = var.gpu_instance_types, ami = "AL2023_x86_64_NVIDIA", least = 0, most = var.gpu_nodes_at_most, labels = { "ml-platform/accelerator" = "gpu" }, taints = [{ key = "nvidia.com/gpu", value = "true" }] }
  }
}

resource "aws_launch_template" "node" {
  for_each = local.pools
  name     = "${var.name}-${each.key}"
  metadata_options {
    http_tokens                 = "required"
    http_endpoint               = "enabled"
    http_put_response_hop_limit = 1 # pods cannot take the identity of their node
  }
  block_device_mappings {
    device_name = "/dev/xvda"
    ebs {
      volume_size = 100
      volume_type = "gp3"
      encrypted   = true
    }
  }
}

resource "aws_eks_node_group" "this" {
  for_each        = local.pools
  cluster_name    = aws_eks_cluster.this.name
  node_group_name = each.key
  node_role_arn   = aws_iam_role.node.arn
  subnet_ids      = aws_subnet.private[*].id
  capacity_type   = each.value.capacity
  instance_types  = each.value.types
  ami_type        = each.value.ami
  labels          = each.value.labels
  launch_template {
    id      = aws_launch_template.node[each.key].id
    version = aws_launch_template.node[each.key].latest_version
  }
  scaling_config {
    min_size     = each.value.least
    desired_size = each.value.least
    max_size     = each.value.most
  }
  dynamic "taint" {
    for_each = each.value.taints
    content {
      key    = taint.value.key
      value  = taint.value.value
      effect = "NO_SCHEDULE"
    }
  }
  lifecycle {
    ignore_changes = [scaling_config[0].desired_size] # an autoscaler sets it
  }
  depends_on = [aws_iam_role_policy_attachment.node]
}
