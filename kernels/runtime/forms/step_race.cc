#include "kernels/runtime/forms/step_race.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>

#include "harness/base/error.h"
#include "kernels/common/codes.h"
#include "kernels/common/timed_graph.h"
#include "kernels/common/turns.h"
#include "kernels/runtime/decoding_run.h"

namespace tandem::kernels {
namespace {

/// The step in one form, in the middle of a generation, its caches full of random values: those of the source's keys and values, too,
/// so that no form has to encode.
class FormRun {
 public:
  /// `steps`: of one timed graph.
  FormRun(const WorkloadContext& context, const TransformerBatch& batch, const WorkloadParams& params,
          int steps)
      : decoding_(context, batch, params),
        steps_(std::min(steps, params.capacity)),
        first_((params.capacity - steps_) / 2) {
    PlanExecutor& run = decoding_.run();
    for (const PlanBuffer& b : run.plan().buffers) {
      const bool codes = b.dtype == DType::kF8 || b.dtype == DType::kI8;
      if (b.role != BufferRole::kState || b.dtype == DType::kI32) continue;
      run.fill_random(b.name, codes ? largest_code(b.dtype) : 1.0f);
    }
    decoding_.start(first_);
    run.run(PlanSection::kStep);  // loads its kernels
    context.device->synchronize();
    graph_.emplace(decoding_.stream(), [&](cudaStream_t) {
      for (int t = 0; t < steps_; ++t) run.run(PlanSection::kStep);
    });
  }

  double step_us() {
    decoding_.start(first_);
    return graph_->time_us() / steps_;
  }

 private:
  Decoding decoding_;
  int steps_;
  int first_;
  std::optional<TimedGraph> graph_;
};

/// Steps of one timed graph: with short ones several, whose launch would else count.
int steps_at_once(const WorkloadContext& context, const TransformerBatch& batch,
                  const WorkloadParams& params) {
  constexpr double kGraphUs = 2000;
  FormRun one(context, batch, params, 1);
  one.step_us();
  return static_cast<int>(std::clamp(std::ceil(kGraphUs / one.step_us()), 1.0, 4.0));
}

/// While it lives, and if `on`, the library's first suggestions are taken.
class Suggestions {
 public:
  Suggestions(Device& device, bool on) : device_(device) { device_.suggest(on); }
  ~Suggestions() { device_.suggest(false); }
  Suggestions(const Suggestions&) = delete;
  Suggestions& operator=(const Suggestions&) = delete;

 private:
  Device& device_;
};

StepForms raced(const StepForm& kinds, const WorkloadContext& context, const TransformerBatch& batch,
                const WorkloadParams& params) {
  const auto time = [&](const std::vector<StepForm>& forms, bool suggest) {
    const Suggestions taken(*context.device, suggest);
    const int steps = steps_at_once(context, batch, params);
    std::vector<std::unique_ptr<FormRun>> runs;  // each has caches of its own
    std::vector<Timed<FormRun*>> all;
    for (const StepForm& form : forms) {
      WorkloadParams formed = params;
      formed.step_form = form;
      runs.push_back(std::make_unique<FormRun>(context, batch, formed, steps));
      all.push_back({.entrant = runs.back().get(), .order = all.size()});
    }
    for (const auto& timed : all) timed.entrant->step_us();
    in_turns(all, Turns{}, [](FormRun* run) { return run->step_us(); });
    std::vector<double> us(all.size());
    for (const auto& timed : all) us[timed.order] = timed.us;
    return us;
  };
  return race_forms(
      kinds, [&](const auto& forms) { return time(forms, true); },
      [&](const auto& forms) { return time(forms, false); });
}

}  // namespace

StepForm step_form(const WorkloadContext& context, const TransformerBatch& batch,
                   const WorkloadParams& params) {
  Device& device = *context.device;
  if (!device.options().race_steps || params.kernel != KernelChoice::kAuto || device.ranks() != nullptr)
    return {};
  const PlanRequest request = request_of(context, batch, params);
  const std::string step = step_text(request);
  if (const auto known = device.step_choice(step)) return known->form;
  if (!device.may_search()) return {};
  const StepForm kinds = raced_kinds(build_plan(request));
  if (kinds.empty()) return {};
  std::string why;
  try {
    const StepForms found = raced(kinds, context, batch, params);
    device.keep_step(
        step, {.form = found.form, .us = found.us, .own_us = found.own_us, .library_us = found.library_us});
    return found.form;
  } catch (const OutOfMemory& error) {
    why = std::string("no room for two of them: ") + error.what();
  } catch (const UsageError& error) {  // the library has no algorithm for a product
    why = error.what();
  }
  std::fprintf(stderr, "tandem: step '%s' stays with own kernels: %s\n", step.c_str(), why.c_str());
  return {};
}

}  // namespace tandem::kernels
