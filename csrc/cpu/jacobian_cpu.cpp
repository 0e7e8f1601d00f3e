// Binds the Jacobian CPU kernels to tensors.
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

Tensor jacobian_conv2d_rows_cpu(const Tensor& grad_output, const Tensor& x,
                                const std::optional<Tensor>& mask,
                                const std::optional<Tensor>& scale, Options weight_size,
                                int64_t images_per_row, Options stride, Options padding,
                                Options dilation, int64_t groups) {
  constexpr const char* kOp = "jacobian_conv2d_rows";
  STD_TORCH_CHECK(weight_size.size() == 4, kOp, ": weight_size must have 4 entries, got ",
                  weight_size.size());
  for (const int64_t n : weight_size) {
    STD_TORCH_CHECK(n >= 0, kOp, ": weight_size must not be negative, got ", n);
  }
  const Conv2dShape shape = check_conv2d_rows(
      grad_output, x, mask, scale, {weight_size[0], weight_size[1], weight_size[2], weight_size[3]},
      images_per_row, {stride, padding, dilation, groups});
  const int64_t rows = grad_output.size(0) / images_per_row;
  Tensor out = torch::stable::new_zeros(
      x, {rows, shape.filters, weight_size[1], weight_size[2], weight_size[3]});
  if (out.numel() == 0 || grad_output.numel() == 0) return out;
  std::optional<Tensor> kept, factors;
  if (mask.has_value()) kept = torch::stable::contiguous(*mask);
  if (scale.has_value()) factors = torch::stable::contiguous(*scale);
  const JacobianParams params = {
      shape, rows, images_per_row, storage_type(x.scalar_type()), torch_parallel(), selected_isa()};
  const Workspace workspace(jacobian_workspace(params));
  jacobian_conv2d_rows(params, strided(grad_output), strided(x),
                       kept ? static_cast<const bool*>(kept->data_ptr()) : nullptr,
                       factors ? factors->data_ptr() : nullptr, workspace.data(), out.data_ptr());
  return out;
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
