# The CUDA sources, compiled by nvcc, and by g++ in tests.
set(CUDA_KERNELS
  activation_patterns.cu
  nm_mask.cu
  pack_mask.cu
  topk_mask_apply.cu
  topk_mask_select.cu
  topk_mask_tables.cu
  topk_rows.cu)
set(CUDA_GLUE
  activation_patterns_cuda.cpp
  pack_mask_cuda.cpp
  topk_mask_cuda.cpp)
