// The argument contract of the Jacobian operators, checked first by every back end.
#pragma once

#include <optional>
#include <vector>

#include "masked_conv2d_check.h"

namespace supertickets {

inline void check_row_type(const char* op, const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double, op,
      ": ", name, " must be float32 or float64");
}

// Returns the shape of the convolution; its batch is that of x.
inline Conv2dShape check_conv2d_rows(const Tensor& grad, const Tensor& x,
                                     const std::optional<Tensor>& mask,
                                     const std::optional<Tensor>& scale,
                                     const std::optional<Tensor>& given_weight,
                                     const std::array<int64_t, 4>& weight, int64_t images_per_row,
                                     const Conv2dOptions& options) {
  constexpr const char* kOp = "jacobian_conv2d_rows";
  check_row_type(kOp, "x", x);
  check_floating(kOp, "x", x, x);
  check_floating(kOp, "grad_output", grad, x);
  const Conv2dShape shape = conv2d_shape(kOp, sizes4(kOp, "x", x), weight, options);
  const auto size = sizes4(kOp, "grad_output", grad);
  STD_TORCH_CHECK(
      size[1] == shape.filters && size[2] == shape.out_height && size[3] == shape.out_width, kOp,
      ": grad_output must have images of the output's shape (", shape.filters, ", ",
      shape.out_height, ", ", shape.out_width, "), got ", shape_text(grad));
  STD_TORCH_CHECK(images_per_row > 0 && size[0] % images_per_row == 0, kOp,
                  ": images_per_row must be positive and divide grad_output's ", size[0],
                  " images, got ", images_per_row);
  STD_TORCH_CHECK(size[0] == 0 || (shape.batch > 0 && size[0] % shape.batch == 0), kOp,
                  ": x must have images that divide grad_output's ", size[0], ", got ",
                  shape.batch);
  check_mask(kOp, mask, weight, x);
  if (scale.has_value()) {
    check_floating(kOp, "scale", *scale, x);
    STD_TORCH_CHECK(scale->dim() == 1 && scale->size(0) == shape.filters, kOp,
                    ": scale must have shape (", shape.filters, ",), got ", shape_text(*scale));
  }
  if (given_weight.has_value()) {
    check_floating(kOp, "weight", *given_weight, x);
    STD_TORCH_CHECK(sizes4(kOp, "weight", *given_weight) == weight, kOp,
                    ": weight must have weight_size, got ", shape_text(*given_weight));
  }
  return shape;
}

inline void check_gram(const Tensor& gram, const Tensor& one, const std::optional<Tensor>& two) {
  constexpr const char* kOp = "jacobian_gram_";
  const Tensor& other = two.has_value() ? *two : one;
  check_row_type(kOp, "one", one);
  check_floating(kOp, "one", one, one);
  check_floating(kOp, "two", other, one);
  STD_TORCH_CHECK(one.dim() == 2 && other.dim() == 2 && one.size(1) == other.size(1), kOp,
                  ": one and two must be [rows, columns] with as many columns, got ",
                  shape_text(one), " and ", shape_text(other));
  STD_TORCH_CHECK(gram.scalar_type() == ScalarType::Double && gram.dim() == 2 &&
                      gram.size(0) == one.size(0) && gram.size(1) == other.size(0),
                  kOp, ": gram must be float64 [", one.size(0), ", ", other.size(0), "], got ",
                  shape_text(gram));
  check_device(kOp, "one", one, "gram", gram);
  STD_TORCH_CHECK(gram.is_contiguous(), kOp, ": gram must be contiguous");
}

}  // namespace supertickets
