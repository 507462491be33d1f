"""What was measured and tested: python -m benchmarks.choice writes this file from benchmarks/results."""

#: GPUs on which the tests have passed, as the driver names them: seconds per node of a CUDA graph, and multiply-adds
#: per second of its products.
DEVICES: dict[str, tuple[float, float]] = {}
#: Multiply-adds per second of one core, in training: the most that were measured.
CORE = {
    "bfloat16": 2.51e11,
    "float32": 5.83e10,
}
