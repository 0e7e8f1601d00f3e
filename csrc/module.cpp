// supertickets_ext._C: facts about the build and the machine. It carries no tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <thread>

#include "cpu/isa.h"

namespace py = pybind11;

namespace {

std::vector<std::string> names(const std::vector<supertickets::Isa>& isas) {
  std::vector<std::string> result;
  for (const supertickets::Isa isa : isas) result.emplace_back(supertickets::isa_name(isa));
  return result;
}

py::dict facts() {
  py::dict result;
  result["version"] = SUPERTICKETS_VERSION;
  result["compiler"] = SUPERTICKETS_COMPILER;
  result["build_type"] = SUPERTICKETS_BUILD_TYPE;
  result["sanitize"] = SUPERTICKETS_SANITIZE;
  result["torch_built_with"] = SUPERTICKETS_TORCH_VERSION;
  result["torch_floor"] = "2.10";
  result["compiled_instruction_sets"] = names(supertickets::compiled_isas());
  result["usable_instruction_sets"] = names(supertickets::usable_isas());
  result["instruction_set"] = supertickets::isa_name(supertickets::selected_isa());
  result["threads"] = static_cast<int64_t>(std::thread::hardware_concurrency());
  result["cuda_targets"] = std::vector<std::string>{};
  result["cuda_note"] = SUPERTICKETS_CUDA_NOTE;
  return result;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about how supertickets_ext was built and what it runs on.";
  m.def("facts", &facts, "Build, instruction sets and CUDA targets, as plain values.");
}
