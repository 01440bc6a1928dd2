#include "harness/cost/links.h"

#include <gtest/gtest.h>

#include <string>

#include "harness/base/error.h"

namespace tandem {
namespace {

// A model that misses a term predicts that more cards are always better: the reason to have it.
TEST(Links, AnAllReduceByHand) {
  const Links links{.card_gbs = 100, .call_us = 4, .cards_per_host = 8, .network_gbs = 10, .network_us = 5};
  EXPECT_EQ(all_reduce_us(1e6, 1, links), 0);
  EXPECT_DOUBLE_EQ(all_reduce_us(1e4, 2, links), 4 + 0.1);               // once
  EXPECT_DOUBLE_EQ(all_reduce_us(1e4, 8, links), 4 + 0.7);               // once: 7 others
  EXPECT_DOUBLE_EQ(all_reduce_us(1e6, 8, links), 8 + 2 * 7.0 / 8 * 10);  // twice
  Links pairs = links;
  pairs.cards_per_host = 2;
  EXPECT_DOUBLE_EQ(all_reduce_us(1e6, 8, pairs), (8 + 10) + (10 + 2 * 3.0 / 4 * 50));
  pairs.cards_per_host = 1;
  EXPECT_DOUBLE_EQ(all_reduce_us(1e6, 4, pairs), 10 + 2 * 3.0 / 4 * 100) << "nothing within a host";
}

// A link of no speed would predict no time, or a time that is no number.
TEST(Links, BadLinksAreNamed) {
  const auto refused = [](const char* what, Links links, int ranks) {
    try {
      all_reduce_us(8, ranks, links);
      ADD_FAILURE() << what;
    } catch (const UsageError& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  refused("card-gbs", {.card_gbs = 0}, 2);
  refused("call-us", {.call_us = -1}, 2);
  refused("network-us: must be given, 8 ranks are on 2 hosts", {.cards_per_host = 4}, 8);
  refused("cards-per-host: 3 does not divide 8", {.cards_per_host = 3}, 8);
}

// A step of a rank has its share of the matrices and of K/V, whole norms, 3 sums a layer and one each for the embedding and the
// choice.
TEST(Links, ARanksStep) {
  const ModelConfig config = preset("t5-3b");
  const std::vector<int32_t> lengths(64, 512);
  const Cost whole = decode_step_cost(config, lengths, 128, {});
  const Cost rank = decode_step_cost(config, lengths, 128, {.degree = 4});
  const auto of = [](const Cost& c, PhaseKind kind) { return *c.find(Side::kDecoder, kind); };
  for (const PhaseKind kind :
       {PhaseKind::kSelfQkv, PhaseKind::kSelfOut, PhaseKind::kFfnUp, PhaseKind::kFfnDown, PhaseKind::kHead}) {
    EXPECT_DOUBLE_EQ(of(rank, kind).weight_bytes * 4, of(whole, kind).weight_bytes);
    EXPECT_DOUBLE_EQ(of(rank, kind).flops * 4, of(whole, kind).flops);
  }
  EXPECT_DOUBLE_EQ(of(rank, PhaseKind::kCrossAttention).kv_bytes * 4,
                   of(whole, PhaseKind::kCrossAttention).kv_bytes);
  EXPECT_EQ(of(rank, PhaseKind::kNorm).weight_bytes, of(whole, PhaseKind::kNorm).weight_bytes);
  EXPECT_EQ(whole.find(Side::kDecoder, PhaseKind::kComm), nullptr);
  const PhaseCost comm = of(rank, PhaseKind::kComm);
  EXPECT_EQ(comm.collectives, 3 * config.decoder.layers + 1);
  EXPECT_EQ(comm.collective_bytes, 64.0 * config.d_model * 2);
  EXPECT_EQ(of(rank, PhaseKind::kSelect).collectives, 1);
}

// Breaks when a floor of ranks leaves out what they must tell each other, or a rate that nobody knows is taken for no time.
TEST(Links, AFloorCountsTheFewestBytesOverThem) {
  const ModelConfig config = preset("t5-3b");
  const std::vector<int32_t> lengths(64, 512);
  const Cost rank = decode_step_cost(config, lengths, 128, {.degree = 4});
  const double sum = 64.0 * config.d_model * 2;
  EXPECT_DOUBLE_EQ(rank.find(Side::kDecoder, PhaseKind::kComm)->link_bytes,
                   (3 * config.decoder.layers + 1) * 2 * 0.75 * sum);
  EXPECT_DOUBLE_EQ(rank.find(Side::kDecoder, PhaseKind::kSelect)->link_bytes, 3 * 64 * 8);
  EXPECT_EQ(decode_step_cost(config, lengths, 128, {}).link_bytes(), 0);
  Ceilings card;
  card.read_gbs = 4000;
  card.copy_gbs = 4000;
  card.burst_tflops.fill(700);
  const double alone = floor_us(rank, card)->us;
  EXPECT_FALSE(floor_phases_us(rank, card)) << "a sum without one of its terms";
  EXPECT_FALSE(links_us(rank, card));
  card.link_gbs = 450;
  EXPECT_DOUBLE_EQ(*links_us(rank, card), rank.link_bytes() / 450e3);
  EXPECT_EQ(floor_us(rank, card)->us, alone) << "not the largest";
  Cost without = rank;
  for (PhaseCost& p : without.phases) p.link_bytes = 0;
  EXPECT_GT(*floor_phases_us(rank, card), *floor_phases_us(without, card));
  EXPECT_LE(*floor_phases_us(rank, card), *floor_phases_us(without, card) + *links_us(rank, card));
  card.link_gbs = 1;
  EXPECT_EQ(floor_us(rank, card)->bound, Bound::kLinks);
  EXPECT_DOUBLE_EQ(floor_us(rank, card)->us, rank.link_bytes() / 1e3);
  Cost twice = rank;
  twice.add(rank);
  EXPECT_DOUBLE_EQ(twice.link_bytes(), 2 * rank.link_bytes());
}

// The claim of the model: a small model at batch 1 loses by more cards, a large one at a large batch wins.
TEST(Links, MoreCardsPayWhereThereIsWork) {
  Ceilings card;
  card.read_gbs = 4000;
  card.copy_gbs = 4000;
  card.empty_node_us = 1;
  card.burst_tflops.fill(700);
  const auto step = [&](const char* name, int batch, int ranks) {
    const std::vector<int32_t> lengths(static_cast<size_t>(batch), 512);
    return model_us(decode_step_cost(preset(name), lengths, 128, {.degree = ranks}), card, ranks, {})
        ->total_us();
  };
  EXPECT_GT(step("transformer-base", 1, 4), step("transformer-base", 1, 1));
  EXPECT_LT(step("t5-3b", 64, 4), step("t5-3b", 64, 1) / 2);
  card.empty_node_us.reset();
  EXPECT_FALSE(model_us(decode_step_cost(preset("tiny"), std::vector<int32_t>{4}, 2, {}), card, 1, {}));
}

}  // namespace
}  // namespace tandem
