"""What perdure costs, each figure beside a yardstick measured in the same run (README.md)."""
