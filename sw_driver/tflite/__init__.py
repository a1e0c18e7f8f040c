"""TFLite files: reading them into the layer graph, checking what is supported, writing them."""
