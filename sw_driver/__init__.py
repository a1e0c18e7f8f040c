"""The driver: model file -> layer graph -> program image -> device -> result."""
