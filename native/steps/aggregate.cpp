#include "kernels/aggregate.h"

#include <map>

#include "steps/elements.h"
#include "steps/kernel_step.h"
#include "steps/list.h"

namespace drystone {

namespace {

const std::map<std::string, AggregateKind> names = {{"cumsum", AggregateKind::cumsum}, {"cumprod", AggregateKind::cumprod},
                                                    {"cummax", AggregateKind::cummax}, {"logcumsumexp", AggregateKind::logcumsumexp},
                                                    {"cummin", AggregateKind::cummin}, {"sum", AggregateKind::sum},
                                                    {"any", AggregateKind::any},       {"all", AggregateKind::all},
                                                    {"amax", AggregateKind::amax},     {"amin", AggregateKind::amin},
                                                    {"argmax", AggregateKind::argmax}, {"argmin", AggregateKind::argmin}};

class AggregateStep final : public Step {
 public:
  AggregateStep(const TensorDesc& input, const TensorDesc& output, const std::string& name, const Dims& dims)
      : kernel_(require_kernels().aggregate) {
    implementation = kernel_name("aggregate");
    const auto found = names.find(name);
    require(found != names.end(), "unknown aggregate '" + name + "'");
    args_.kind = found->second;
    check_element(input);
    args_.dtype = input.dtype;
    check_dense(input);
    check_dense(output);
    check_types(input, output, name);
    args_.outer = args_.count = args_.inner = 1;
    require(!dims.empty() && dims.front() >= 0 && dims.back() < input.rank(), "an aggregate along axes that there are not");
    for (size_t i = 1; i < dims.size(); i++) require(dims[i] == dims[i - 1] + 1, "an aggregate along axes that are no neighbours");
    for (int64_t i = 0; i < input.rank(); i++)
      (i < dims.front() ? args_.outer : i > dims.back() ? args_.inner : args_.count) *= input.shape[i];
    const bool running = is_running(args_.kind);
    require(!running || dims.size() == 1, "a running aggregate goes along one axis");
    require(args_.count > 0, "an aggregate of nothing");
    require(output.numel() == (running ? input.numel() : args_.outer * args_.inner), "the output of an aggregate has another size");
  }

  void run(const Run& run, StepState*) const override {
    AggregateArgs args = args_;
    args.input = run.slots[0];
    args.output = run.slots[1];
    if (has_places(args.kind)) args.places = static_cast<int64_t*>(run.slots[2]);
    args.threads = args.outer * args.inner == 1 ? 1 : threads_for(args.outer * args.count * args.inner, run.threads);
    kernel_(args);
  }

 private:
  void check_types(const TensorDesc& input, const TensorDesc& output, const std::string& name) {
    const bool places = args_.kind == AggregateKind::argmax || args_.kind == AggregateKind::argmin;
    require(output.dtype == (places ? DType::s64 : input.dtype), name + " into another dtype");
    if (args_.kind == AggregateKind::cumsum || args_.kind == AggregateKind::cumprod)
      require(is_float(input.dtype) || input.dtype == DType::s64, name + " takes f32, bf16 and s64");
    if (args_.kind == AggregateKind::logcumsumexp) require(is_float(input.dtype), name + " takes f32 and bf16");
    if (args_.kind == AggregateKind::sum) require(input.dtype == DType::s64, "this sum takes s64");
    if (args_.kind == AggregateKind::any || args_.kind == AggregateKind::all) require(input.dtype == DType::boolean, name + " takes bool");
  }

  void (*kernel_)(const AggregateArgs&);
  AggregateArgs args_{};
};

}  // namespace

std::shared_ptr<Step> make_aggregate(const TensorDesc& input, const TensorDesc& output, const std::string& kind, const Dims& dims) {
  return std::make_shared<AggregateStep>(input, output, kind, dims);
}

}  // namespace drystone
