"""Whether an error says that memory ran out: every library on a GPU has a type of its own for it, or none."""

OUT_OF_MEMORY = (
    "out of memory",  # torch, NCCL
    "out_of_memory",  # the CUDA driver, by Numba
    "alloc_failed",  # cuBLAS, cuDNN
    "allocator_failure",  # nvJPEG
    "cuda allocation failed",  # DALI
    "can't allocate",  # DALI, and torch on a CPU
)


def is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return any(words in text for words in OUT_OF_MEMORY)
