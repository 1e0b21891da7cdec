output "values" {
  description = "Values of the Helm chart for these stores: `terraform output -raw values > my-values.yaml`."
  value = yamlencode({
    serviceAccount = { annotations = { "eks.amazonaws.com/role-arn" = aws_iam_role.pod["platform"].arn } }
    cluster = {
      postgres = { address = "postgresql://${aws_db_instance.this.username}@${aws_db_instance.this.endpoint}" }
      object_store = {
        lake      = "s3://${aws_s3_bucket.this.id}/lake"
        artifacts = "s3://${aws_s3_bucket.this.id}/artifacts"
        region    = var.region
      }
      valkey = { address = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0" }
    }
    jobs = { backup = { target = "s3://${aws_s3_bucket.this.id}/backups" } }
  })
}

output "roles" {
  description = "Roles of the service accounts."
  value       = { for name, role in aws_iam_role.pod : name => role.arn }
}

output "secrets" {
  description = "Secrets with the passwords of Postgres and Valkey, for External Secrets."
  value = {
    postgres = aws_db_instance.this.master_user_secret[0].secret_arn
    valkey   = aws_secretsmanager_secret.valkey.arn
  }
}

output "home" {
  description = "File system of the home, for a StorageClass of the EFS driver with user and group 10001."
  value       = aws_efs_file_system.home.id
}
