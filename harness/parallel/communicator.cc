#include "harness/parallel/communicator.h"

#include <fmt/format.h>

#include <cstring>

#include "harness/base/half.h"

namespace tandem {
namespace {

class SingleCommunicator : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(void* data, int64_t count, DType dtype, void*) override {
    const void* const inputs[] = {data};
    sum_in_rank_order(inputs, data, count, dtype);
  }
  void all_gather(const void* mine, void* all, int64_t bytes, void*) override {
    if (mine != all) std::memcpy(all, mine, static_cast<size_t>(bytes));
  }
  void broadcast(void*, int64_t, int, void*) override {}
  void barrier(void*) override {}
};

template <typename T, typename Load, typename Store>
void sum_as(std::span<const void* const> inputs, void* sum, int64_t count, Load load, Store store) {
  for (int64_t i = 0; i < count; ++i) {
    float total = load(static_cast<const T*>(inputs[0])[i]);
    for (const void* input : inputs.subspan(1)) total += load(static_cast<const T*>(input)[i]);
    static_cast<T*>(sum)[i] = store(total);
  }
}

}  // namespace

RankLost::RankLost(int rank, const std::string& why)
    : Error(fmt::format("rank {} lost: it {}", rank, why)), rank_(rank), why_(why) {}

void sum_in_rank_order(std::span<const void* const> inputs, void* sum, int64_t count, DType dtype) {
  switch (dtype) {
    case DType::kF32: {
      const auto same = [](float x) { return x; };
      return sum_as<float>(inputs, sum, count, same, same);
    }
    case DType::kF16:
      return sum_as<uint16_t>(inputs, sum, count, fp16_to_float, float_to_fp16);
    case DType::kBF16:
      return sum_as<uint16_t>(inputs, sum, count, bf16_to_float, float_to_bf16);
    default:
      throw UsageError(fmt::format("all_reduce: {} is not allowed; f32, f16 or bf16", dtype_name(dtype)));
  }
}

std::unique_ptr<Communicator> make_single_communicator() {
  return std::make_unique<SingleCommunicator>();
}

}  // namespace tandem
