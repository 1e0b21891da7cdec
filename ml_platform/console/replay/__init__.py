"""Replays past windows of a domain through the real platform, and reports how it decided and how well it predicted."""
