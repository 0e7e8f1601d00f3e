// Runs the CPU kernels on plain pointers, for sanitizer runs that need no Python. Every buffer is a
// heap block of exactly the size the kernel is promised, so one element too far is a fault.
//
//   kernel_check                     all kernels on every usable instruction set
//   kernel_check --plant=address     hands a kernel one element less than promised
//   kernel_check --plant=undefined   hands a kernel a misaligned pointer
//   kernel_check --plant=thread      runs every piece of work on two threads at once
//
// The --plant runs prove that the sanitizer in use would notice such a fault in a kernel.
#include "conv_check.h"
#include "jacobian_check.h"
#include "kernel_check.h"
#include "lanes_check.h"
#include "ntk_lanes_check.h"
#include "regions_check.h"
#include "topk_check.h"

using namespace kernel_check;

namespace {

std::vector<Problem> all_problems() {
  std::vector<Problem> problems;
  for (const Layout layout : {Layout::kPixels, Layout::kLanes, Layout::kImages}) {
    for (const ConvCase& item : kConvCases) problems.emplace_back(item, layout);
  }
  return problems;
}

int check_everything() {
  const std::vector<Problem> problems = all_problems();
  const Problem streamed[] = {{kStreamedCase, Layout::kLanes}, {kStreamedCase, Layout::kImages}};
  for (const Isa isa : usable_isas()) {
    for (const Parallel& parallel : {alone(), three_threads()}) check_sweep(parallel, isa);
    check_regions(isa);
    for (const StorageType type : kTypes) {
      for (const Parallel& parallel : {alone(), three_threads()}) {
        for (const Problem& problem : problems) ConvCheck(problem, type, parallel, isa).all();
        check_lanes(parallel, type, isa);
        check_topk(parallel, type, isa);
        check_jacobian(parallel, type, isa);
      }
      for (const Problem& problem : problems) {
        ConvCheck(problem, type, alone(), isa).damaged_headers();
      }
      for (const Problem& problem : streamed) {
        ConvCheck(problem, type, three_threads(), isa).forward();
      }
    }
    std::printf("%s: %s\n", isa_name(isa), failures == 0 ? "as the plain loops" : "see above");
  }
  return failures == 0 ? 0 : 1;
}

// Must not return normally under the sanitizer it is named after.
int plant(const std::string& kind) {
  const Problem problem(kConvCases[0], Layout::kPixels);
  const StorageType type = StorageType::kFloat32;
  const Elements x(type, problem.x), y(type, static_cast<int64_t>(problem.sum.size()));
  const Elements weight(type, problem.weight);
  const Elements shorter(type, x.count - 1), longer(type, x.count + 1);
  char* data = x.data();
  if (kind == "address") data = shorter.data();
  if (kind == "undefined") data = longer.data() + 1;
  MaskedConv2dParams params;
  params.shape = problem.shape;
  params.storage = type;
  params.weight = weight.data();
  params.parallel = kind == "thread" ? colliding_threads() : alone();
  masked_conv2d_forward(params, problem.input(data), problem.output(y.data()));
  std::fprintf(stderr, "the planted %s fault went unnoticed\n", kind.c_str());
  return 3;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string argument = argc > 1 ? argv[1] : "";
  const std::string prefix = "--plant=";
  if (argument.rfind(prefix, 0) == 0) return plant(argument.substr(prefix.size()));
  return check_everything();
}
