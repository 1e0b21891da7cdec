# Pods get the identity of their service account, by a token that AWS checks; no key is stored anywhere.
data "tls_certificate" "tokens" {
  url = aws_eks_cluster.this.identity[0].oidc[0].issuer
}

resource "aws_iam_openid_connect_provider" "this" {
  url             = aws_eks_cluster.this.identity[0].oidc[0].issuer
  client_id_list  = ["sts.amazonaws.com"]
  thumbprint_list = [data.tls_certificate.tokens.certificates[0].sha1_fingerprint]
}

locals {
  issuer = replace(aws_iam_openid_connect_provider.this.url, "https://", "")
  # Name of the role → service account, as namespace:name.
  service_accounts = {
    platform   = "${var.namespace}:${var.release}"
    secrets    = "external-secrets:external-secrets"
    files      = "kube-system:efs-csi-controller-sa"
    autoscaler = "kube-system:cluster-autoscaler"
  }
}

data "aws_iam_policy_document" "pod" {
  for_each = local.service_accounts
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [aws_iam_openid_connect_provider.this.arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values   = ["system:serviceaccount:${each.value}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "pod" {
  for_each           = local.service_accounts
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pod[each.key].json
}

# The platform: objects below its three prefixes, and nothing else of the bucket.
data "aws_iam_policy_document" "platform" {
  statement {
    sid       = "Objects"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = [for prefix in ["lake", "artifacts", "backups"] : "${aws_s3_bucket.this.arn}/${prefix}/*"]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.this.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["lake/*", "artifacts/*", "backups/*", "lake", "artifacts", "backups"]
    }
  }
  statement {
    sid       = "Encrypt"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "platform" {
  name   = "objects"
  role   = aws_iam_role.pod["platform"].id
  policy = data.aws_iam_policy_document.platform.json
}

# External Secrets writes the Secrets of Kubernetes from these two.
data "aws_iam_policy_document" "secrets" {
  statement {
    actions   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
    resources = [aws_secretsmanager_secret.valkey.arn, aws_db_instance.this.master_user_secret[0].secret_arn]
  }
  statement {
    actions   = ["kms:Decrypt"]
    resources = [aws_kms_key.this.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["secretsmanager.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "secrets" {
  name   = "secrets"
  role   = aws_iam_role.pod["secrets"].id
  policy = data.aws_iam_policy_document.secrets.json
}

resource "aws_iam_role_policy_attachment" "files" {
  role       = aws_iam_role.pod["files"].name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonEFSCSIDriverPolicy"
}

# The autoscaler changes the sizes of the pools of this cluster only.
data "aws_iam_policy_document" "autoscaler" {
  #checkov:skip=CKV_AWS_356:a tag of the cluster limits the actions that change something
  statement {
    sid = "Read"
    actions = [
      "autoscaling:DescribeAutoScalingGroups", "autoscaling:DescribeAutoScalingInstances", "autoscaling:DescribeLaunchConfigurations",
      "autoscaling:DescribeScalingActivities", "ec2:DescribeImages", "ec2:DescribeInstanceTypes", "ec2:DescribeLaunchTemplateVersions",
      "ec2:GetInstanceTypesFromInstanceRequirements", "eks:DescribeNodegroup",
    ]
    resources = ["*"] # these actions know no resources
  }
  statement {
    sid       = "Resize"
    actions   = ["autoscaling:SetDesiredCapacity", "autoscaling:TerminateInstanceInAutoScalingGroup"]
    resources = ["*"]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/eks:cluster-name"
      values   = [aws_eks_cluster.this.name]
    }
  }
}

resource "aws_iam_role_policy" "autoscaler" {
  name   = "pools"
  role   = aws_iam_role.pod["autoscaler"].id
  policy = data.aws_iam_policy_document.autoscaler.json
}
