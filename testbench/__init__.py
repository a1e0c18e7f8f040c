"""cocotb: the bench that serves the driver's link, the harness around the device, benches of single blocks."""
