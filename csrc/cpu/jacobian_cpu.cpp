// Binds the Jacobian CPU kernels to tensors.
#include <tuple>

#include "../core/jacobian_check.h"
#include "jacobian.h"
#include "tensor_cpu.h"

namespace supertickets {
namespace {

using Options = std::vector<int64_t>;

// Scratch memory that goes back to the pool.
class Workspace {
 public:
  explicit Workspace(int64_t bytes)
      : memory_(bytes > 0 ? pool_take(static_cast<size_t>(bytes)) : nullptr) {}
  ~Workspace() {
    if (memory_ != nullptr) pool_give(memory_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return memory_; }

 private:
  void* memory_;
};

std::tuple<Tensor, Tensor> jacobian_conv2d_rows_cpu(
    const Tensor& grad_output, const Tensor& x, const std::optional<Tensor>& mask,
    const std::optional<Tensor>& scale, const std::optional<Tensor>& weight, Options weight_size,
    int64_t images_per_row, Options stride, Options padding, Options dilation, int64_t groups) {
  constexpr const char* kOp = "jacobian_conv2d_rows";
  const Conv2dShape shape =
      check_conv2d_rows(grad_output, x, mask, scale, weight, weight_size4(kOp, weight_size),
                        images_per_row, {stride, padding, dilation, groups});
  const int64_t rows = grad_output.size(0) / images_per_row;
  const bool empty = grad_output.numel() == 0 || x.numel() == 0;
  const std::vector<int64_t> size = {rows, shape.filters, weight_size[1], weight_size[2],
                                     weight_size[3]};
  Tensor out = empty ? torch::stable::new_zeros(x, size) : torch::stable::new_empty(x, size);
  Tensor dots = torch::stable::new_zeros(x, {weight.has_value() ? rows : 0, shape.filters});
  if (empty || out.numel() == 0) return {out, dots};
  std::optional<Tensor> kept, factors, weights;
  if (weight.has_value()) weights = torch::stable::contiguous(*weight);
  if (mask.has_value()) kept = torch::stable::contiguous(*mask);
  if (scale.has_value()) factors = torch::stable::contiguous(*scale);
  const JacobianParams params = {
      shape, rows, images_per_row, storage_type(x.scalar_type()), torch_parallel(), selected_isa()};
  const Workspace workspace(jacobian_workspace(params));
  jacobian_conv2d_rows(params, strided(grad_output), strided(x),
                       kept ? static_cast<const bool*>(kept->data_ptr()) : nullptr,
                       factors ? factors->data_ptr() : nullptr,
                       weights ? weights->data_ptr() : nullptr, workspace.data(), out.data_ptr(),
                       dots.data_ptr());
  return {out, dots};
}

void jacobian_gram_cpu(Tensor gram, const Tensor& one, const std::optional<Tensor>& two) {
  check_gram(gram, one, two);
  const Tensor left = torch::stable::contiguous(one);
  const Tensor right = two.has_value() ? torch::stable::contiguous(*two) : left;
  jacobian_gram({left.size(0), right.size(0), left.size(1), !two.has_value(),
                 storage_type(one.scalar_type()), torch_parallel(), selected_isa()},
                left.data_ptr(), right.data_ptr(), static_cast<double*>(gram.data_ptr()));
}

}  // namespace
}  // namespace supertickets

STABLE_TORCH_LIBRARY_IMPL(supertickets, CPU, m) {
  m.impl("jacobian_conv2d_rows", TORCH_BOX(&supertickets::jacobian_conv2d_rows_cpu));
  m.impl("jacobian_gram_", TORCH_BOX(&supertickets::jacobian_gram_cpu));
}
