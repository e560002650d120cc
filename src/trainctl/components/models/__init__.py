"""Models, one a file. A constructor gets ``input_shape`` and ``output_size`` from the data if it asks."""
