// Measures the rates that floors stand on, through the operations of suite_limits of the best engine here.
#include <fmt/format.h>

#include <unistd.h>

#include <ctime>
#include <fstream>
#include <iostream>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/stats.h"
#include "harness/card/nvml.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/record/environment.h"
#include "harness/run/sampling/measure.h"
#include "suites/engines.h"

namespace tandem {
namespace {

/// Burst: on a card that has rested. Sustained: after the clock has settled.
enum class Regime : uint8_t { kBurst, kSustained };

struct Rates {
  double best_us = 0;
  OpWorkload op;
};

/// us of one of a card's products, which bring their rest or their warm-up themselves.
double product_us(Workload& workload, Regime regime) {
  if (regime == Regime::kBurst) return best_us(workload);
  constexpr size_t kSamples =
      10;  // no more than the operation takes at once: the next ones would settle anew
  std::vector<double> us;
  while (us.size() < kSamples) us.push_back(workload.repeat().total_us);
  return median(us);
}

/// us of everything else: on a CPU the best of what was seen, as a disturbed repetition only makes a rate look lower.
double other_us(Workload& workload, Regime regime, EngineTraits traits) {
  MeasureOptions options = default_options(traits);
  options.stop.max_s = 0.3;
  options.stop.min_s = 0.1;
  if (regime == Regime::kBurst) {
    options.warmup = {.window_s = 0, .agreement = 1, .max_s = 0};
    options.stop = {.target = 0, .min_samples = 10, .max_samples = 10, .min_s = 0, .max_s = 10};
  }
  NoClocks clocks;
  const Summary times = summarize(measure(workload, clocks, options).samples_us);
  return traits.on_host ? times.min_us : times.median_us;
}

std::optional<Rates> measure_op(Engine& engine, const std::string& name, Precision precision, Regime regime,
                                const std::string& sparsity = "dense") {
  Case c;
  c.suite = Suite::kLimits;
  c.op = name;
  c.precision = precision;
  c.sparsity = sparsity;
  c.engine = engine.name();
  try {
    engine.check_supported(c);
    Rates rates{0, engine.prepare_op(c, load_model(c.model))};
    Workload& workload = *rates.op.workload;
    workload.repeat();  // first touch
    const CheckResult r = rates.op.check();
    if (!r.ok())
      throw Error(fmt::format("{}: error {:.3g} over {:.3g}: {}", name, r.error, r.tolerance, r.where));
    const bool on_card = !engine.traits().on_host;
    rates.best_us = on_card && rates.op.flops > 0 ? product_us(workload, regime)
                                                  : other_us(workload, regime, engine.traits());
    return rates;
  } catch (const ImpossibleCase&) {
    return std::nullopt;  // this machine has no such rate
  }
}

/// Time of all CPUs since the machine started, and the busy part of it, in ticks (proc(5)).
struct CpuTime {
  double all = 0, busy = 0;
};
CpuTime cpu_time() {
  std::ifstream in("/proc/stat");
  std::string word;
  CpuTime t;
  in >> word;
  // user nice system idle iowait irq softirq steal; guests are in the first two.
  for (int i = 0; i < 8; ++i) {
    double ticks = 0;
    if (!(in >> ticks)) break;
    t.all += ticks;
    if (i != 3 && i != 4) t.busy += ticks;
  }
  return t;
}

/// Did other work run while the rates were measured? On a card: another process on it. On a CPU: a share of its time that is
/// not this process's.
class OtherWork {
 public:
  explicit OtherWork(const std::optional<CardInfo>& card)
      : card_(card), start_(cpu_time()), own_(std::clock()) {}

  std::string seen() const {
    if (card_) {
      const auto processes = card_processes(nvml(), card_->index);
      if (!processes) return "";
      for (const CardProcess& p : *processes) {
        if (p.pid != ::getpid())
          return fmt::format("process {} was on the card while they were measured", p.pid);
      }
      return "";
    }
    constexpr double kMostShare = 0.1;
    const CpuTime now = cpu_time();
    const double own_s = static_cast<double>(std::clock() - own_) / CLOCKS_PER_SEC;
    const double own = own_s * static_cast<double>(::sysconf(_SC_CLK_TCK));
    const double all = now.all - start_.all;
    const double share = all > 0 ? (now.busy - start_.busy - own) / all : 0;
    if (share < kMostShare) return "";
    return fmt::format("other work took {:.0f} % of the CPU while they were measured", 100 * share);
  }

 private:
  std::optional<CardInfo> card_;
  CpuTime start_;
  std::clock_t own_;
};

}  // namespace

Ceilings measure_ceilings(const std::string& name, const EngineOptions& options) {
  const EngineRegistry registry = engine_registry();
  const auto engine = registry.make(name, options);
  Ceilings c;
  const auto card = card_of(registry, name, options.device);
  if (!card && !engine->traits().on_host) {
    throw DeviceError(
        fmt::format("--measure-ceilings: device {} is not one of the cards that NVML lists", options.device));
  }
  c.machine = machine_label(card);
  c.measured_at = utc_now();
  c.cache_bytes = registry.l2_bytes(engine->traits().on_host ? -1 : options.device);
  const OtherWork other(card);

  auto rate = [&](const char* op) -> std::optional<double> {
    const auto r = measure_op(*engine, op, Precision::kFp32, Regime::kSustained);
    if (!r) return std::nullopt;
    return (r->op.bytes_read + r->op.bytes_written) / r->best_us * 1e-3;
  };
  c.read_gbs = rate("read");
  c.copy_gbs = rate("copy");
  c.l2_gbs = rate("l2");
  if (const auto node = measure_op(*engine, "empty_node", Precision::kFp32, Regime::kSustained)) {
    c.empty_node_us = node->best_us;
  }
  for (const Regime regime : {Regime::kBurst, Regime::kSustained}) {
    const bool burst = regime == Regime::kBurst;
    const auto tflops = [&](Precision precision, const char* sparsity) -> std::optional<double> {
      const auto r = measure_op(*engine, burst ? "gemm" : "gemm_sustained", precision, regime, sparsity);
      return r ? std::optional(r->op.flops / r->best_us * 1e-6) : std::nullopt;
    };
    for (int p = 0; p < kPrecisions; ++p) {
      (burst ? c.burst_tflops : c.sustained_tflops)[static_cast<size_t>(p)] =
          tflops(static_cast<Precision>(p), "dense");
    }
    (burst ? c.two_of_four_burst_tflops : c.two_of_four_sustained_tflops) = tflops(Precision::kBf16, "2:4");
  }
  if (engine->traits().on_host) {
    // The reference computes every precision in fp32 arithmetic on rounded weights.
    for (auto* table : {&c.burst_tflops, &c.sustained_tflops}) {
      for (Precision p : {Precision::kTf32, Precision::kFp16, Precision::kBf16}) {
        (*table)[static_cast<size_t>(p)] = (*table)[static_cast<size_t>(Precision::kFp32)];
      }
    }
  }
  c.doubt = other.seen();
  return c;
}

}  // namespace tandem
