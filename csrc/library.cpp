// Every operator schema. Tensors are float32, bfloat16, float16 or float64; masks are bool.
// stride and dilation are {height, width}, padding is {top, bottom, left, right}.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(supertickets, m) {
  // A mask of None keeps every weight.
  m.def(
      "masked_conv2d(Tensor x, Tensor weight, Tensor? mask, Tensor? bias, int[] stride, "
      "int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "masked_conv2d_grad_input(Tensor grad_output, Tensor weight, Tensor? mask, "
      "SymInt[] input_size, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");
  m.def(
      "masked_conv2d_grad_weight(Tensor grad_output, Tensor x, Tensor? mask, "
      "SymInt[] weight_size, int[] stride, int[] padding, int[] dilation, int groups) -> Tensor");

  // scores [R, n]: each row is ranked by itself.
  m.def("topk_mask(Tensor scores, int keep, bool by_magnitude) -> Tensor");
  // The list is ranked as if it were concatenated.
  m.def("global_topk_mask(Tensor[] scores, int keep, bool by_magnitude) -> Tensor[]");
  // Returns threshold (scores' dtype), grown and pruned (int64), all without dimensions.
  m.def(
      "update_topk_mask_(Tensor(a!) mask, Tensor scores, int keep, int? max_swaps, "
      "bool by_magnitude) -> (Tensor, Tensor, Tensor)");
}
