"""A network of our own for handwritten digits: trained, quantised and written as TFLite by scripts in this folder."""
