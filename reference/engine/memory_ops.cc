#include <unistd.h>

#include <cstring>
#include <vector>

#include "harness/base/error.h"
#include "harness/memory/caching_resource.h"
#include "harness/memory/level1_cache.h"
#include "harness/memory/memory_resource.h"
#include "harness/weights/materialise.h"
#include "harness/weights/values/seeded.h"
#include "reference/engine/op_workloads.h"
#include "reference/engine/timed_op.h"

namespace tandem::reference {
namespace {

/// A load of the model's weights into host memory. Cold: made anew. Warm: level1 copies what the cache holds, the levels
/// below keep nothing between loads and make it again.
OpWorkload load_op(const Case& c, const ModelConfig& config, bool warm) {
  struct State {
    HostWeights host;
    SeededSource source;
    Level1Cache::Options options = {};
    std::unique_ptr<Level1Cache> cache = {};
    ~State() { Level1Cache::remove(options); }
  };
  std::shared_ptr<State> s(
      new State{.host = empty_host_weights(config), .source = SeededSource(parse_weights(c.weights))});
  s->options.run_dir = "suite_memory-" + std::to_string(::getpid());
  s->cache = std::make_unique<Level1Cache>(s->options);
  const int64_t bytes = s->host.layout.bytes;
  const bool level1 = c.memory == "level1";
  auto counter = std::make_shared<int>(0);
  auto load = [=] {
    if (!level1) {
      materialise(s->source, s->host.layout, {.host = std::as_writable_bytes(std::span(s->host.arena))});
      return;
    }
    const std::string key = warm ? "weights" : "weights " + std::to_string(*counter);
    const Level1Object object = s->cache->get(
        key, bytes, [&](std::span<std::byte> out) { materialise(s->source, s->host.layout, {.host = out}); });
    std::memcpy(s->host.arena.data(), object.data(), static_cast<size_t>(bytes));
  };
  if (warm) load();
  auto prepare = [=] {
    if (warm) return;
    ++*counter;
    Level1Cache::remove(s->options);  // or the cap ends the case
    s->cache = std::make_unique<Level1Cache>(s->options);
  };
  OpWorkload op;
  auto timed = std::make_unique<TimedOp>(load, prepare);
  timed->planned = bytes;
  timed->peak = [=] { return bytes; };
  op.workload = std::move(timed);
  op.bytes_written = static_cast<double>(bytes);
  op.check = [=] {
    int wrong = 0;
    for (const TensorSpec& t : s->host.layout.tensors) {
      float last = 0;
      read_values(s->source, t, {t.rows - 1, 1, t.cols - 1, 1}, {&last, 1});
      wrong += s->host.tensor(t.name).back() != last;
    }
    return CheckResult{"last value of each tensor", static_cast<double>(wrong), 0,
                       std::to_string(wrong) + " tensors differ"};
  };
  return op;
}

/// The blocks of one generation: weights, K/V, and activations that come and go. Sizes are the model's.
void replay_trace(MemoryResource& resource, const ModelConfig& config, const Case& c, int64_t* live_peak) {
  const int64_t rows = c.batch, d = config.d_model;
  std::vector<MemoryBlock> held;
  int64_t live = 0, peak = 0;
  auto hold = [&](int64_t elements) {
    held.emplace_back(resource, tensor_bytes(DType::kF32, elements));
    live += tensor_bytes(DType::kF32, elements);
    peak = std::max(peak, live);
  };
  hold(weight_layout(config).bytes / 4);
  for (int layer = 0; layer < config.decoder.layers; ++layer) {
    hold(2 * rows * c.tgt * config.inner(config.decoder));
    hold(2 * rows * c.src * config.inner(config.decoder));
  }
  for (int layer = 0; layer < config.encoder.layers; ++layer) {
    const size_t base = held.size();
    const int64_t before = live;
    hold(rows * c.src * 3 * config.inner(config.encoder));
    hold(rows * c.src * config.encoder.d_ff);
    hold(rows * c.src * d);
    held.resize(base);
    live = before;
  }
  *live_peak = peak;
}

OpWorkload trace_op(const Case& c, const ModelConfig& config) {
  struct State {
    std::unique_ptr<MemoryResource> host = make_host_resource();
    std::unique_ptr<CachingResource> caching;
    int64_t needed = 0;
    int64_t left = 0;
  };
  auto s = std::make_shared<State>();
  if (c.memory != "gpu") s->caching = std::make_unique<CachingResource>(*s->host);
  auto resource = [s]() -> MemoryResource& { return s->caching ? *s->caching : *s->host; };
  replay_trace(resource(), config, c, &s->needed);
  auto timed = std::make_unique<TimedOp>([=] {
    replay_trace(resource(), config, c, &s->needed);
    s->left = resource().stats().current_bytes;
  });
  // Held from the level below against what was live at once: their ratio is what caching and splitting cost.
  timed->peak = [=] { return s->caching ? s->caching->stats().reserved_bytes : s->host->stats().peak_bytes; };
  timed->planned = s->needed;
  OpWorkload op;
  op.workload = std::move(timed);
  op.check = [=] {
    return CheckResult{"bytes handed out after the trace", static_cast<double>(s->left), 0,
                       std::to_string(s->left) + " bytes"};
  };
  return op;
}

OpWorkload allocation_op(const Case& c) {
  struct State {
    std::unique_ptr<MemoryResource> host = make_host_resource();
    std::unique_ptr<CachingResource> caching;
  };
  auto s = std::make_shared<State>();
  if (c.memory != "gpu") s->caching = std::make_unique<CachingResource>(*s->host);
  OpWorkload op;
  op.workload = std::make_unique<TimedOp>([=] {
    MemoryResource& r = s->caching ? static_cast<MemoryResource&>(*s->caching) : *s->host;
    MemoryBlock block(r, 1 << 20);
    *static_cast<volatile char*>(block.data()) = 1;
  });
  op.check = [=] {
    const int64_t held = s->caching ? s->caching->stats().current_bytes : s->host->stats().current_bytes;
    return CheckResult{"bytes handed out after the last return", static_cast<double>(held), 0, ""};
  };
  return op;
}

}  // namespace

OpWorkload memory_op(const Case& c, const ModelConfig& config) {
  if (c.op == "cold_load" || c.op == "warm_load") return load_op(c, config, c.op == "warm_load");
  if (c.op == "allocation") return allocation_op(c);
  return trace_op(c, config);
}

}  // namespace tandem::reference
