"""What the exit code of every command means (operations.md section 2)."""

OK = 0
ERROR = 1
USAGE = 2
TOO_FEW_REPLICAS = 3
VERIFICATION_FAILED = 4
INTERRUPTED = 130
"""128 + SIGINT, as shells expect it."""
