#include "kernels/runtime/ranks/measured_ways.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "harness/base/cuda_check.h"
#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/sweep/files.h"
#include "kernels/common/device_buffer.h"
#include "kernels/common/timed_graph.h"

namespace tandem::kernels {
namespace {

constexpr std::array<int64_t, 7> kSizes = {2 << 10, 16 << 10, 128 << 10, 512 << 10,
                                           2 << 20, 8 << 20,  32 << 20};
constexpr int64_t kOneShotLimit = 2 << 20;  // beyond it sends many times the bytes that two shots send
constexpr int kInARow = 8;
constexpr DType kType = DType::kBF16;

std::string key_of(int ranks) {
  int device = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&device));
  cudaDeviceProp properties{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return fmt::format("{} x {}", ranks, properties.name);
}

std::optional<CollectiveTable> read(const std::string& path, const std::string& key) {
  if (path.empty() || !std::filesystem::exists(path)) return std::nullopt;
  const nlohmann::json all = parse_json(read_file(path));
  if (!all.is_object()) throw UsageError(fmt::format("{}: not a JSON object", path));
  const auto found = all.find(key);
  if (found == all.end()) return std::nullopt;
  if (!found->is_string()) throw UsageError(fmt::format("{}: {}: not a text", path, key));
  return CollectiveTable::parse(found->get<std::string>());
}

void write(const std::string& path, const std::string& key, const CollectiveTable& table) {
  nlohmann::json all = nlohmann::json::object();
  if (std::filesystem::exists(path)) all = parse_json(read_file(path));
  all[key] = table.text();
  write_file_atomic(path, all.dump(1) + "\n");
}

/// One of several in a row, the best of three replays, us.
double time_us(DeviceRanks& ranks, cudaStream_t stream, CollectiveWay way, const DeviceBuffer& x,
               const DeviceBuffer& y, int64_t bytes) {
  const AllReduceChoice choice = way == CollectiveWay::kOneShot   ? AllReduceChoice::kOneShot
                                 : way == CollectiveWay::kTwoShot ? AllReduceChoice::kTwoShot
                                                                  : AllReduceChoice::kNccl;
  const auto once = [&] {
    ranks.all_reduce(choice, x.data(), y.data(), bytes / dtype_bytes(kType), kType, true);
  };
  once();
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream));
  TimedGraph graph(stream, [&](cudaStream_t) {
    for (int i = 0; i < kInARow; ++i) once();
  });
  double best = graph.time_us();
  for (int i = 0; i < 3; ++i) best = std::min(best, graph.time_us());
  ranks.check();
  return best / kInARow;
}

CollectiveTable measure(DeviceRanks& ranks, Communicator& control, cudaStream_t stream) {
  const DeviceBuffer x(kSizes.back());
  const DeviceBuffer y(kSizes.back());
  TANDEM_CUDA_CHECK(cudaMemsetAsync(x.data(), 0, static_cast<size_t>(x.bytes()), stream));
  const bool nccl = ranks.no_nccl().empty();
  constexpr size_t kWays = 3;
  std::array<double, kSizes.size() * kWays> mine{};
  for (size_t i = 0; i < kSizes.size(); ++i) {
    for (size_t w = 0; w < kWays; ++w) {
      const auto way = static_cast<CollectiveWay>(w);
      if (way == CollectiveWay::kNccl && !nccl) continue;
      if (way == CollectiveWay::kOneShot && kSizes[i] > kOneShotLimit) continue;
      mine[i * kWays + w] = time_us(ranks, stream, way, x, y, kSizes[i]);
    }
  }
  std::vector<double> all(mine.size() * static_cast<size_t>(control.size()));
  control.all_gather(mine.data(), all.data(), static_cast<int64_t>(sizeof(mine)), nullptr);
  std::vector<std::map<CollectiveWay, double>> us(kSizes.size());
  for (size_t at = 0; at < all.size(); ++at) {
    const size_t i = at % mine.size();
    double& slowest = us[i / kWays][static_cast<CollectiveWay>(i % kWays)];
    slowest = std::max(slowest, all[at]);
  }
  return CollectiveTable::measured({kSizes.begin(), kSizes.end()}, us);
}

}  // namespace

CollectiveTable measured_ways(DeviceRanks& ranks, Communicator& control, cudaStream_t stream,
                              const std::string& path, bool may_search) {
  const std::string key = key_of(ranks.size());
  // Rank 0's file counts for all.
  std::array<char, 256> text{};
  if (ranks.rank() == 0) {
    if (const auto known = read(path, key)) known->text().copy(text.data(), text.size() - 1);
  }
  control.broadcast(text.data(), static_cast<int64_t>(text.size()), 0, nullptr);
  if (text[0] != 0) return CollectiveTable::parse(text.data());
  if (!may_search || !ranks.no_peers().empty()) return CollectiveTable::guessed(ranks.size());
  const CollectiveTable table = measure(ranks, control, stream);
  if (ranks.rank() == 0 && !path.empty()) write(path, key, table);
  return table;
}

}  // namespace tandem::kernels
