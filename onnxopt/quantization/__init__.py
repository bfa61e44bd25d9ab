"""INT8 quantization: where integers pay on the target, with ranges from data, judged by accuracy and by the clock."""
