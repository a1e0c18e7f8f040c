"""The weight decoder, and the codec as one object."""
