"""What the documentation states, measured: `make bench`. Every run is compared with TFLite Micro as well."""
