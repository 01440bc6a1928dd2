#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "harness/base/error.h"
#include "harness/base/testing/test_seed.h"
#include "harness/weights/materialise.h"
#include "harness/weights/packed.h"
#include "harness/weights/values/seeded.h"
#include "kernels/common/device_test.h"
#include "kernels/quantise/quantise.h"

namespace tandem::kernels {
namespace {

// Without it: a matrix multiplied through scratch is another than the sparse one that is stored: every product of a model, widths
// that no word of a bitmap divides, both storages.
TEST(Unpack, EqualsTheHostBitForBit) {
  TANDEM_NEEDS_DEVICE();
  ModelConfig c = preset("tiny");
  c.d_model = 40, c.head_dim = 20;
  c.encoder = {.layers = 1, .heads = 2, .d_ff = 1300};
  c.decoder = {.layers = 2, .heads = 3, .d_ff = 68};
  const SeededSource source({.seed = test_seed(), .outliers = true});
  for (const SparsitySpec& sparsity : {SparsitySpec{.two_of_four = true}, SparsitySpec{.unstructured = 0.5},
                                       SparsitySpec{.unstructured = 0.95}}) {
    const WeightForm form{.precision = Precision::kBf16, .sparsity = sparsity};
    const WeightLayout layout = weight_layout(c, form, prune(source, c, form));
    std::vector<uint8_t> arena(static_cast<size_t>(layout.bytes));
    materialise(source, layout, {.host = std::as_writable_bytes(std::span(arena))});
    const DeviceBuffer device = DeviceBuffer::of(arena);
    const ModelWeights host = bind_weights(layout, arena.data());
    const ModelWeights card = bind_weights(layout, device.data<uint8_t>());
    const auto check = [&](const DenseWeight& w, const DenseWeight& on_card, const char* what) {
      ASSERT_TRUE(w.sparse()) << what;
      const std::vector<uint32_t> want = unpack_sparse(w);
      const DeviceTensor y(static_cast<int64_t>(want.size()), DType::kBF16);
      launch_unpack({.rows = w.weight.rows,
                     .cols = w.in(),
                     .values = on_card.weight.data,
                     .metadata = on_card.metadata,
                     .bitmap = on_card.bitmap,
                     .row_starts = on_card.row_starts,
                     .y = y.data()},
                    nullptr);
      const std::vector<uint8_t> got = y.bytes();
      for (size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(static_cast<uint32_t>(got[2 * i] | got[2 * i + 1] << 8), want[i])
            << sparsity_text(sparsity) << " " << what << " " << i;
      }
    };
    check(host.encoder.layers[0].ffn.up, card.encoder.layers[0].ffn.up, "encoder ffn.up");
    check(host.encoder.layers[0].ffn.down, card.encoder.layers[0].ffn.down, "encoder ffn.down");
    check(host.encoder.layers[0].self.qkv, card.encoder.layers[0].self.qkv, "encoder qkv");
    check(host.decoder.layers[1].self.out, card.decoder.layers[1].self.out, "decoder self.out");
    check(host.decoder.layers[1].cross.kv, card.decoder.layers[1].cross.kv, "decoder cross.kv");
    check(host.decoder.cross_kv, card.decoder.cross_kv, "decoder cross.kv of all layers");
  }
}

TEST(Unpack, RefusesWhatItCannotRead) {
  int any = 0;
  EXPECT_THROW(launch_unpack({.rows = 1, .cols = 8, .values = &any, .y = &any}, nullptr), UsageError);
  EXPECT_THROW(launch_unpack({.rows = 1, .cols = 8, .values = &any, .bitmap = &any, .y = &any}, nullptr),
               UsageError);
  EXPECT_THROW(launch_unpack({.rows = 1, .cols = 6, .values = &any, .metadata = &any, .y = &any}, nullptr),
               UsageError);
}

}  // namespace
}  // namespace tandem::kernels
