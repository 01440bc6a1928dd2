// The operations of suite_memory on a card: loads at each level, allocation latency, peak and fragmentation.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/memory/gpu_resource.h"
#include "harness/memory/level1_cache.h"
#include "harness/model/batch.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "kernels/ops/op_workloads.h"
#include "kernels/runtime/device_model.h"
#include "kernels/runtime/workloads.h"
#include "kernels/seeded/seeded_fill.h"

namespace tandem::kernels {
namespace {

/// Times a function on the host's clock: what is measured is the host waiting.
class HostTimedWorkload : public Workload {
 public:
  std::function<void()> before;  ///< not timed
  std::function<void()> work;
  std::function<int64_t()> peak;
  std::optional<int64_t> planned;

  Repetition repeat() override {
    if (before) before();
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
    return {.total_us = time.count(), .step_us = {}, .first_token_us = {}};
  }
  Output output() override { return {}; }
  int64_t peak_bytes() const override { return peak ? peak() : 0; }
  std::optional<int64_t> planned_bytes() const override { return planned; }
};

/// A load of the model's weights onto the card. level1: through the host's cache, whose file is there (warm)
/// or not yet (cold). level2: made on the card into a block that the cache holds (warm) or gets from the
/// driver (cold). gpu: the driver's allocator each time, so that warm and cold differ by what the driver
/// keeps.
struct Loader {
  explicit Loader(SeededSource values) : source(std::move(values)) {}

  std::shared_ptr<Device> device;
  WeightLayout layout;
  SeededSource source;
  std::string level;
  bool warm = false;
  Level1Cache::Options options;
  std::unique_ptr<Level1Cache> cache;
  std::optional<Level1Object> object;
  std::unique_ptr<PageLock> lock;
  MemoryBlock block;

  ~Loader() {
    lock.reset();
    object.reset();
    if (level == "level1") Level1Cache::remove(options);
  }

  int64_t bytes() const { return layout.bytes; }

  void map_host() {
    object = cache->get("weights " + form_text(layout.form), bytes(),
                        [&](std::span<std::byte> out) { materialise(source, layout, {.host = out}); });
    lock = std::make_unique<PageLock>(const_cast<void*>(object->data()), bytes());
  }

  void prepare() {
    device->activate();
    block.reset();
    if (warm) {
      if (level == "level1" && !object) map_host();
      return;
    }
    device->level2().trim();
    if (level != "level1") return;
    lock.reset();
    object.reset();
    Level1Cache::remove(options);
    cache = std::make_unique<Level1Cache>(options);
  }

  void load() {
    block = MemoryBlock(device->memory(level), bytes());
    if (level == "level1") {
      if (!object) map_host();
      TANDEM_CUDA_CHECK(cudaMemcpyAsync(block.data(), object->data(), static_cast<size_t>(bytes()),
                                        cudaMemcpyHostToDevice, device->stream()));
    } else {
      launch_seeded_arena({.spec = source.seeded(), .layout = &layout, .arena = block.data()},
                          device->stream());
    }
    device->synchronize();
  }

  CheckResult check() const {
    int wrong = 0;
    std::vector<std::byte> want(static_cast<size_t>(bytes()));
    for (const TensorSpec& t : layout.tensors) {
      store_rectangle(source, layout, t, {t.rows - 1, 1, t.cols - 1, 1}, want);
      const int64_t last = t.offset + t.value_bytes() - t.storage.value_row_bytes(1);
      std::byte got[4];
      const auto size = static_cast<size_t>(t.storage.value_row_bytes(1));
      TANDEM_CUDA_CHECK(
          cudaMemcpy(got, static_cast<const std::byte*>(block.data()) + last, size, cudaMemcpyDeviceToHost));
      wrong += std::memcmp(want.data() + last, got, size) != 0;
    }
    return {"last value of each tensor", static_cast<double>(wrong), 0,
            fmt::format("{} tensors differ", wrong)};
  }
};

OpWorkload load_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config, bool warm) {
  auto loader = std::make_shared<Loader>(SeededSource(parse_weights(c.weights)));
  loader->device = device;
  loader->layout = weight_layout(config, weight_form(c));
  loader->level = c.memory;
  loader->warm = warm;
  loader->options = {.run_dir = fmt::format("suite_memory-{}", ::getpid()),
                     .cap_bytes = device->options().level1_bytes};
  if (c.memory == "level1") loader->cache = std::make_unique<Level1Cache>(loader->options);
  auto workload = std::make_unique<HostTimedWorkload>();
  workload->before = [loader] { loader->prepare(); };
  workload->work = [loader] { loader->load(); };
  workload->peak = [device] { return device->meter().peak_bytes; };
  workload->planned = loader->bytes();
  device->meter().restart_peak();
  OpWorkload op;
  op.bytes_written = static_cast<double>(loader->bytes());
  op.check = [loader] { return loader->check(); };
  op.workload = std::move(workload);
  return op;
}

/// One block of 1 MiB, handed out and given back.
OpWorkload allocation_op(std::shared_ptr<Device> device, const Case& c) {
  MemoryResource& memory = device->memory(c.memory);
  const int64_t held = device->meter().current_bytes;
  auto workload = std::make_unique<HostTimedWorkload>();
  workload->work = [&memory] { const MemoryBlock block(memory, int64_t{1} << 20); };
  workload->peak = [device] { return device->meter().peak_bytes; };
  device->meter().restart_peak();
  OpWorkload op;
  op.check = [device, held] {
    const auto left = static_cast<double>(device->meter().current_bytes - held);
    return CheckResult{"bytes handed out after the last return", left, 0, fmt::format("{} bytes", left)};
  };
  op.workload = std::move(workload);
  return op;
}

/// The blocks of one generation at the level of the case: weights, the plan's arena, workspace. `peak`
/// reports what was handed out at most, `fragmentation` what the level holds from the driver for it.
OpWorkload trace_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config) {
  struct State {
    std::vector<int64_t> blocks;
    int64_t planned = 0;
    int64_t left = 0;
  };
  auto state = std::make_shared<State>();
  const WeightLayout layout = weight_layout(config, weight_form(c));
  const ModelWeights weights = bind_weights(layout, reinterpret_cast<const void*>(kPlanAlignment));
  const TransformerBatch batch = case_batch(c, config);
  const StepPlan plan = build_plan(plan_request(config, weights, c.precision, batch, {.capacity = c.tgt}));
  state->blocks = {layout.bytes, plan.arena_bytes, int64_t{64} << 20};
  for (const int64_t bytes : state->blocks) state->planned += bytes;

  MemoryResource& memory = device->memory(c.memory);
  auto workload = std::make_unique<HostTimedWorkload>();
  workload->work = [state, device, &memory] {
    const int64_t before = device->meter().current_bytes;
    {
      std::vector<MemoryBlock> held;
      for (const int64_t bytes : state->blocks) held.emplace_back(memory, bytes);
      held.erase(held.begin() + 1);  // another case of the group: other activations, the same weights
      held.emplace_back(memory, state->blocks[1] / 2 + 1);
    }
    state->left = device->meter().current_bytes - before;
  };
  const bool reserved = c.op == "fragmentation" && c.memory != "gpu";
  workload->peak = [device, reserved] {
    return reserved ? device->level2().stats().reserved_bytes : device->meter().peak_bytes;
  };
  workload->planned = state->planned;
  device->level2().trim();
  device->meter().restart_peak();
  OpWorkload op;
  op.check = [state] {
    return CheckResult{"bytes handed out after the trace", static_cast<double>(state->left), 0,
                       fmt::format("{} bytes", state->left)};
  };
  op.workload = std::move(workload);
  return op;
}

}  // namespace

OpWorkload memory_op(std::shared_ptr<Device> device, const Case& c, const ModelConfig& config) {
  if (c.op == "cold_load" || c.op == "warm_load")
    return load_op(std::move(device), c, config, c.op == "warm_load");
  if (c.op == "allocation") return allocation_op(std::move(device), c);
  if (c.op == "peak" || c.op == "fragmentation") return trace_op(std::move(device), c, config);
  throw ImpossibleCase(fmt::format("op: engine 'cuda' has no memory operation '{}'", c.op));
}

}  // namespace tandem::kernels
