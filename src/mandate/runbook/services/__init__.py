"""What the guide stops and starts: compose, systemd, processes, plain commands."""
