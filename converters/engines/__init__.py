"""What the engines that models come from do with a quantized graph."""
