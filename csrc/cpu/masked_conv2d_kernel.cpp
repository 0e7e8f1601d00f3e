// The kernels of masked_conv2d; compiled once per instruction set.
#include "masked_conv2d_dots.h"
#include "masked_conv2d_fill.h"
#include "masked_conv2d_images.h"
#include "masked_conv2d_lanes.h"
#include "masked_conv2d_run.h"

namespace supertickets::SUPERTICKETS_ISA {

const MaskedConv2dKernels& masked_conv2d_kernels() {
  static const MaskedConv2dKernels kernels = {
      {{&fill_pixels<float>, &fill_pixels<BFloat16>, &fill_pixels<Float16>, &fill_pixels<double>},
       {&fill_lanes<float>, &fill_lanes<BFloat16>, &fill_lanes<Float16>, &fill_lanes<double>},
       {&fill_images<float>, &fill_images<BFloat16>, &fill_images<Float16>, &fill_images<double>}},
      {{&emit_pixels<float>, &emit_pixels<BFloat16>, &emit_pixels<Float16>, &emit_pixels<double>},
       {&emit_lanes<float>, &emit_lanes<BFloat16>, &emit_lanes<Float16>, &emit_lanes<double>},
       {&emit_images<float>, &emit_images<BFloat16>, &emit_images<Float16>, &emit_images<double>}},
      {&move_lanes<float, true>, &move_lanes<BFloat16, true>, &move_lanes<Float16, true>,
       &move_lanes<double, true>},
      {&move_lanes<float, false>, &move_lanes<BFloat16, false>, &move_lanes<Float16, false>,
       &move_lanes<double, false>},
      &run<float>,
      &run<double>,
      &dot<float>,
      &dot<double>,
      kTileLines<float>,
      kTileLines<double>,
      kSharesTaps,
  };
  return kernels;
}

}  // namespace supertickets::SUPERTICKETS_ISA
