#include "kernels/fold.h"

#include <map>

#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

class FoldStep final : public Step {
 public:
  FoldStep(const TensorDesc& input, const TensorDesc& output, const std::string& name, const Dims& dims) : kernel_(require_kernels().fold) {
    implementation = kernel_name("fold");
    static const std::map<std::string, FoldKind> names = {
        {"cumsum", FoldKind::cumsum}, {"cumprod", FoldKind::cumprod}, {"cummax", FoldKind::cummax}, {"cummin", FoldKind::cummin},
        {"sum", FoldKind::sum},       {"any", FoldKind::any},         {"all", FoldKind::all},       {"amax", FoldKind::amax},
        {"amin", FoldKind::amin},     {"argmax", FoldKind::argmax},   {"argmin", FoldKind::argmin}};
    const auto found = names.find(name);
    require(found != names.end(), "unknown fold '" + name + "'");
    args_.kind = found->second;
    check_element(input);
    args_.dtype = input.dtype;
    check_dense(input);
    check_dense(output);
    check_types(input, output, name);
    args_.outer = args_.count = args_.inner = 1;
    require(!dims.empty() && dims.front() >= 0 && dims.back() < input.rank(), "a fold along axes that there are not");
    for (size_t i = 1; i < dims.size(); i++) require(dims[i] == dims[i - 1] + 1, "a fold along axes that are no neighbours");
    for (int64_t i = 0; i < input.rank(); i++)
      (i < dims.front() ? args_.outer : i > dims.back() ? args_.inner : args_.count) *= input.shape[i];
    const bool running = is_running(args_.kind);
    require(!running || dims.size() == 1, "a running fold goes along one axis");
    require(args_.count > 0, "a fold of nothing");
    require(output.numel() == (running ? input.numel() : args_.outer * args_.inner), "the output of a fold has another size");
  }

  void run(const Run& run, StepState*) const override {
    FoldArgs args = args_;
    args.input = run.slots[0];
    args.output = run.slots[1];
    if (has_places(args.kind)) args.places = static_cast<int64_t*>(run.slots[2]);
    args.threads = args.outer * args.inner == 1 ? 1 : threads_for(args.outer * args.count * args.inner, run.threads);
    kernel_(args);
  }

 private:
  void check_types(const TensorDesc& input, const TensorDesc& output, const std::string& name) {
    const bool places = args_.kind == FoldKind::argmax || args_.kind == FoldKind::argmin;
    require(output.dtype == (places ? DType::s64 : input.dtype), name + " into another dtype");
    if (args_.kind == FoldKind::cumsum || args_.kind == FoldKind::cumprod)
      require(is_float(input.dtype) || input.dtype == DType::s64, name + " takes f32, bf16 and s64");
    if (args_.kind == FoldKind::sum) require(input.dtype == DType::s64, "this sum takes s64");
    if (args_.kind == FoldKind::any || args_.kind == FoldKind::all) require(input.dtype == DType::boolean, name + " takes bool");
  }

  void (*kernel_)(const FoldArgs&);
  FoldArgs args_{};
};

}  // namespace

std::shared_ptr<Step> make_fold(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims) {
  return std::make_shared<FoldStep>(input, output, kind, dims);
}

}  // namespace drystone
