#include <functional>
#include <vector>

#include <fmt/format.h>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/stats.h"
#include "kernels/common/device_buffer.h"
#include "kernels/limits/limit_stream.h"
#include "kernels/limits/limits.h"
#include "kernels/limits/stream.h"

namespace tandem::kernels {
namespace {

constexpr StreamShape kShapes[] = {{4, 4}, {8, 4}, {16, 4}, {4, 8}, {8, 8}};
constexpr int kWarmUps = 3;

void check_samples(int samples) {
  if (samples < 1) throw UsageError("limits: samples must be at least 1");
}
int64_t whole_vectors(int64_t bytes) {
  if (bytes < 16) throw UsageError("limits: bytes must be at least 16");
  return bytes / 16 * 16;
}

/// A word on the device that is cleared, run into and read back.
class Word {
 public:
  explicit Word(const LimitStream& stream) : stream_(stream), buffer_(sizeof(uint32_t)) {}
  uint32_t* data() const { return buffer_.data<uint32_t>(); }
  void clear() const { TANDEM_CUDA_CHECK(cudaMemsetAsync(data(), 0, sizeof(uint32_t), stream_.get())); }
  uint32_t value() const {
    uint32_t v = 0;
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(&v, data(), sizeof(v), cudaMemcpyDeviceToHost, stream_.get()));
    stream_.wait();
    return v;
  }

 private:
  const LimitStream& stream_;
  DeviceBuffer buffer_;
};

/// Times `work` after a few runs that are not counted; empty and `wrong` set as soon as `check` finds a
/// fault. `before` runs ahead of each sample, outside the clock.
struct Timing {
  std::function<void(cudaStream_t)> before;
  std::function<void(cudaStream_t)> work;
  std::function<std::string()> check;
  int samples = 1;
};
std::vector<double> time_us(const LimitStream& stream, const Timing& timing, std::string& wrong) {
  timing.before(stream.get());
  timing.work(stream.get());
  stream.wait();
  TimedGraph graph(stream.get(), timing.work);
  std::vector<double> us;
  for (int i = -kWarmUps; i < timing.samples; ++i) {
    timing.before(stream.get());
    const double t = graph.time_us();
    wrong = timing.check();
    if (!wrong.empty()) return {};
    if (i >= 0) us.push_back(t);
  }
  return us;
}

/// The best of the stream shapes, then `samples` with it. `timing_of(shape)` gives what to time.
Limit best_rate(const LimitStream& stream, double bytes, int samples,
                const std::function<Timing(const StreamShape&)>& timing_of) {
  StreamShape best;
  double best_us = 0;
  std::string wrong;
  for (const StreamShape& shape : kShapes) {
    Timing timing = timing_of(shape);
    timing.samples = 5;
    const std::vector<double> us = time_us(stream, timing, wrong);
    if (!wrong.empty()) return wrong_limit(wrong);
    if (best_us == 0 || median(us) < best_us) {
      best_us = median(us);
      best = shape;
    }
  }
  Timing timing = timing_of(best);
  timing.samples = samples;
  std::vector<double> values = time_us(stream, timing, wrong);
  if (!wrong.empty()) return wrong_limit(wrong);
  for (double& v : values) v = bytes / v * 1e-3;
  return good_limit(std::move(values));
}

Limit read_rate(const LimitStream& stream, int64_t bytes, int repeats, int samples) {
  const DeviceBuffer buffer(bytes);
  const Word sum(stream);
  launch_pattern({.out = buffer.data(), .bytes = bytes, .sms = stream.sms()}, stream.get());
  const uint32_t expected = pattern_sum(static_cast<uint64_t>(bytes) / 4) * static_cast<uint32_t>(repeats);
  return best_rate(stream, static_cast<double>(bytes) * repeats, samples, [&](const StreamShape& shape) {
    const StreamParams p{.in = buffer.data(),
                         .bytes = bytes,
                         .repeats = repeats,
                         .sum = sum.data(),
                         .shape = shape,
                         .sms = stream.sms()};
    return Timing{.before = [&sum](cudaStream_t) { sum.clear(); },
                  .work = [p](cudaStream_t s) { p.repeats == 1 ? launch_read(p, s) : launch_read_l2(p, s); },
                  .check =
                      [&sum, expected] {
                        const uint32_t got = sum.value();
                        return got == expected
                                   ? std::string()
                                   : fmt::format("sum of the words read is {}, not {}", got, expected);
                      }};
  });
}

}  // namespace

Limit measure_read_gbs(int64_t bytes, int samples) {
  check_samples(samples);
  return read_rate(LimitStream(), whole_vectors(bytes), 1, samples);
}

Limit measure_l2_gbs(int64_t bytes, int samples) {
  check_samples(samples);
  constexpr int64_t kReadBytes =
      4ll << 30;  // in all passes: about half a millisecond, far above the launch's share
  const LimitStream stream;
  if (bytes == 0) bytes = stream.l2_bytes() / 3;
  bytes = whole_vectors(bytes);
  // At least two, also because one pass would be a plain stream.
  return read_rate(stream, bytes, static_cast<int>(std::max<int64_t>(kReadBytes / bytes, 2)), samples);
}

Limit measure_copy_gbs(int64_t bytes, int samples) {
  check_samples(samples);
  bytes = whole_vectors(bytes);
  const LimitStream stream;
  const DeviceBuffer from(bytes);
  const DeviceBuffer to(bytes);
  const Word wrong_words(stream);
  launch_pattern({.out = from.data(), .bytes = bytes, .sms = stream.sms()}, stream.get());
  return best_rate(stream, 2.0 * static_cast<double>(bytes), samples, [&](const StreamShape& shape) {
    const StreamParams p{
        .in = from.data(), .out = to.data(), .bytes = bytes, .shape = shape, .sms = stream.sms()};
    return Timing{.before =
                      [&](cudaStream_t s) {
                        TANDEM_CUDA_CHECK(cudaMemsetAsync(to.data(), 0xff, static_cast<size_t>(bytes), s));
                      },
                  .work = [p](cudaStream_t s) { launch_copy(p, s); },
                  .check = [&]() -> std::string {
                    wrong_words.clear();
                    launch_count_wrong(
                        {.in = to.data(), .bytes = bytes, .sum = wrong_words.data(), .sms = stream.sms()},
                        stream.get());
                    const uint32_t wrong = wrong_words.value();
                    return wrong == 0 ? "" : fmt::format("{} words of the copy differ", wrong);
                  }};
  });
}

Limit measure_empty_node_us(bool dependent, int nodes, int samples) {
  check_samples(samples);
  if (nodes < 1) throw UsageError("limits: nodes must be at least 1");
  const LimitStream stream;
  const Word counter(stream);
  const auto chain = [&](int count, uint32_t* word) {
    return TimedGraph(stream.get(), [&](cudaStream_t s) {
      for (int i = 0; i < count; ++i) launch_chain_node({.counter = word, .dependent = dependent}, s);
    });
  };
  counter.clear();
  launch_chain_node({.counter = counter.data(), .dependent = dependent}, stream.get());
  launch_chain_node({.counter = nullptr, .dependent = dependent}, stream.get());

  // The chain that counts shows that each node waits for the one before it; the timed chains are the same but
  // empty.
  TimedGraph counting = chain(nodes, counter.data());
  for (int i = 0; i < kWarmUps; ++i) {
    counter.clear();
    counting.launch();
    const uint32_t got = counter.value();
    if (got != static_cast<uint32_t>(nodes)) {
      return wrong_limit(fmt::format("a chain of {} nodes counted to {}", nodes, got));
    }
  }
  // A graph has a cost of its own; the difference of two lengths leaves the nodes'.
  TimedGraph once = chain(nodes, nullptr);
  TimedGraph twice = chain(2 * nodes, nullptr);
  std::vector<double> us;
  for (int i = -kWarmUps; i < samples; ++i) {
    const double first = once.time_us();
    const double second = twice.time_us();
    if (i >= 0) us.push_back((second - first) / nodes);
  }
  return good_limit(std::move(us));
}

}  // namespace tandem::kernels
