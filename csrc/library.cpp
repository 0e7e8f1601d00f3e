// Every operator schema. Tensors are float32, bfloat16, float16 or float64; masks are bool.
// stride and dilation are {height, width}, padding is {top, bottom, left, right}.
#include <torch/csrc/stable/library.h>

// Tests register the CUDA glue over the CPU under a name of its own.
#if defined(SUPERTICKETS_CUDA_ON_CPU)
STABLE_TORCH_LIBRARY(supertickets_cuda_on_cpu, m) {
#else
STABLE_TORCH_LIBRARY(supertickets, m) {
#endif
  // A mask of None keeps every weight. A pattern spares the pass over the mask that it was made of;
  // one of another mask, convolution or size of map is not used.
  m.def(
      "masked_conv2d(Tensor x, Tensor weight, Tensor? mask, Tensor? bias, int[] stride, "
      "int[] padding, int[] dilation, int groups, Tensor? pattern=None) -> Tensor");
  m.def(
      "masked_conv2d_grad_input(Tensor grad_output, Tensor weight, Tensor? mask, "
      "SymInt[] input_size, int[] stride, int[] padding, int[] dilation, int groups, "
      "Tensor? pattern=None) -> Tensor");
  m.def(
      "masked_conv2d_grad_weight(Tensor grad_output, Tensor x, Tensor? mask, "
      "SymInt[] weight_size, int[] stride, int[] padding, int[] dilation, int groups, "
      "Tensor? pattern=None) -> Tensor");
  // Which weights a mask keeps, for weights of weight's dtype (its values are not read; float64 has
  // no patterns) and inputs of x_size: of masked_conv2d and its grad_weight, or of its grad_input.
  m.def(
      "masked_conv2d_pattern(Tensor weight, Tensor mask, SymInt[] x_size, int[] stride, "
      "int[] padding, int[] dilation, int groups, bool grad_input) -> Tensor");

  // Lanes: 16 images side by side, [G, C, H, W, 16] with G = ceil(N / 16). The three operators
  // above take x and grad_output in lanes as well, and answer in lanes; input_size then has 5
  // entries.
  m.def("to_lanes(Tensor x) -> Tensor");
  m.def("from_lanes(Tensor lanes, SymInt batch, bool channels_last) -> Tensor");

  // A weight in the form that the kernels read, for inputs of x_size (4 entries, or 5 for lanes);
  // it fits any batch of the same kind: lanes or at least 8 images, fewer than 8.
  m.def(
      "masked_conv2d_pack(Tensor weight, Tensor? mask, SymInt[] x_size, int[] stride, "
      "int[] padding, int[] dilation, int groups) -> Tensor");
  // y = relu(conv(x) + bias + residual), with or without relu.
  m.def(
      "masked_conv2d_packed(Tensor x, Tensor packed, int[] weight_size, Tensor? bias, "
      "Tensor? residual, bool relu, int[] stride, int[] padding, int[] dilation, int groups) "
      "-> Tensor");

  // CUDA only. The weight with zeros for what is pruned, and from its gradient those of weight and
  // scores (empty if not wanted). mask: bool, or bits from pack_mask.
  m.def("masked_weight(Tensor weight, Tensor mask) -> Tensor");
  m.def(
      "masked_weight_grad(Tensor grad, Tensor weight, Tensor mask, bool wants_weight, "
      "bool wants_scores) -> (Tensor, Tensor)");

  // scores [R, n]: each row is ranked by itself.
  m.def("topk_mask(Tensor scores, int keep, bool by_magnitude) -> Tensor");
  // The list is ranked as if it were concatenated.
  m.def("global_topk_mask(Tensor[] scores, int keep, bool by_magnitude) -> Tensor[]");
  // Along dim, of every m neighbours the n best.
  m.def("nm_mask(Tensor scores, int n, int m, int dim, bool by_magnitude) -> Tensor");
  // Updates return threshold (scores' dtype), grown, pruned and wanted (int64). Of the wanted swaps
  // at most max_swaps are done, and at most ceil(wanted * max_swap_fraction). hint is a guess of
  // the threshold. Results have no dimensions; those of update_topk_masks_, which ranks each tensor
  // by itself, have one entry per tensor.
  m.def(
      "update_topk_mask_(Tensor(a!) mask, Tensor scores, int keep, int? max_swaps, "
      "float? max_swap_fraction, bool by_magnitude, Tensor? hint) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "update_topk_masks_(Tensor(a!)[] masks, Tensor[] scores, int[] keep, int? max_swaps, "
      "float? max_swap_fraction, bool by_magnitude, Tensor? hints) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "global_update_topk_mask_(Tensor(a!)[] masks, Tensor[] scores, int keep, int? max_swaps, "
      "float? max_swap_fraction, bool by_magnitude, Tensor? hint) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  // Returns the smallest magnitude of a weight that stays and of a gradient that is grown (weight's
  // dtype), and the swaps done (int64).
  m.def(
      "rigl_update_(Tensor(a!) mask, Tensor weight, Tensor grad, int swaps) "
      "-> (Tensor, Tensor, Tensor)");
  // Bit i % 8 of byte i / 8 is entry i.
  m.def("pack_mask(Tensor mask) -> Tensor");
  m.def("unpack_mask(Tensor packed, SymInt[] size) -> Tensor");

  // Coupled Gram matrix [images, images] in float64 of a network written as a table of nodes, see
  // csrc/core/ntk_lanes_check.h; node 0 is the input, tensors are named by number.
  m.def(
      "ntk_lanes_gram(Tensor nodes, Tensor links, Tensor scales, Tensor[] tensors, int images, "
      "int columns) -> Tensor");

  // Weight gradients of a convolution, one row [O, C / groups, KH, KW] for each images_per_row
  // images of grad_output; image i meets image i % N of x. scale [O] multiplies the filters' rows;
  // with a weight, the second result [rows, O] is its inner product with the unscaled rows.
  m.def(
      "jacobian_conv2d_rows(Tensor grad_output, Tensor x, Tensor? mask, Tensor? scale, "
      "Tensor? weight, SymInt[] weight_size, SymInt images_per_row, int[] stride, int[] padding, "
      "int[] dilation, int groups) -> (Tensor, Tensor)");
  // gram (float64) += one two^T for rows [R, P]; two of None is one.
  m.def("jacobian_gram_(Tensor(a!) gram, Tensor one, Tensor? two) -> ()");

  // Activation patterns [N, words]: bit b of a row is bit b % 64 of its word b / 64, set where a
  // value, which may be bool, is > 0. pack_signs_ sets bits from `bit` on, which must be zero
  // before.
  m.def("pack_signs_(Tensor(a!) patterns, Tensor values, int bit) -> ()");
  m.def("count_patterns(Tensor patterns) -> Tensor");
  m.def("hamming_gram(Tensor patterns) -> Tensor");
  // Patterns of a network written as a table of nodes, see csrc/core/region_patterns_check.h; node
  // 0 is the input, tensors are named by number. Batch norms see `batch` samples of x together.
  m.def(
      "region_patterns(Tensor nodes, Tensor links, Tensor scales, Tensor[] tensors, Tensor x, "
      "int batch) -> Tensor");
}
