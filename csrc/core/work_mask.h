// A mask that is updated: itself if contiguous, otherwise a copy that is copied back.
#pragma once

#include "tensor.h"

namespace supertickets {

struct WorkMask {
  Tensor mask, work;
  explicit WorkMask(const Tensor& given)
      : mask(given), work(given.is_contiguous() ? given : torch::stable::contiguous(given)) {}
  void finish() {
    if (!mask.is_contiguous()) torch::stable::copy_(mask, work);
  }
};

}  // namespace supertickets
