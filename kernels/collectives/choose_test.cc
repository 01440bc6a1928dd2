#include "kernels/collectives/choose.h"

#include <gtest/gtest.h>

#include "harness/base/error.h"

namespace tandem::kernels {
namespace {

using Way = CollectiveWay;

// Breaks when the fastest way at a size is not taken there, or a size between two goes by the further one.
TEST(CollectiveTable, TakesTheFastestOfTheNearestSize) {
  const CollectiveTable t = CollectiveTable::measured(
      {1024, 16384, 262144, 4194304}, {{{Way::kOneShot, 3}, {Way::kTwoShot, 5}, {Way::kNccl, 9}},
                                       {{Way::kOneShot, 4}, {Way::kTwoShot, 5}, {Way::kNccl, 9}},
                                       {{Way::kOneShot, 12}, {Way::kTwoShot, 8}, {Way::kNccl, 11}},
                                       {{Way::kOneShot, 0}, {Way::kTwoShot, 50}, {Way::kNccl, 40}}});
  EXPECT_EQ(t.text(), "oneshot:65536 twoshot:1048576 nccl");
  EXPECT_EQ(t.way(1), Way::kOneShot);
  EXPECT_EQ(t.way(65536), Way::kOneShot);
  EXPECT_EQ(t.way(65537), Way::kTwoShot);
  EXPECT_EQ(t.way(1 << 20), Way::kTwoShot);
  EXPECT_EQ(t.way(int64_t{1} << 40), Way::kNccl);
  EXPECT_THROW(CollectiveTable::measured({8}, {{{Way::kNccl, 0}}}), UsageError);
  EXPECT_THROW(CollectiveTable::measured({}, {}), UsageError);
}

// Breaks when a table that was kept does not come back, or one that makes no sense is taken.
TEST(CollectiveTable, TextIsReadBack) {
  for (const char* text : {"nccl", "oneshot:1024 nccl", "oneshot:65536 twoshot:1048576 nccl"}) {
    EXPECT_EQ(CollectiveTable::parse(text).text(), text);
  }
  EXPECT_EQ(CollectiveTable::parse(CollectiveTable::guessed(4).text()), CollectiveTable::guessed(4));
  for (const char* text :
       {"", "ring", "oneshot:8", "nccl oneshot", "oneshot:8 twoshot:8 nccl", "oneshot:9 twoshot:8 nccl",
        "oneshot:x nccl", "oneshot:-4 nccl", "oneshot:8  nccl", "oneshot: nccl"}) {
    EXPECT_THROW(CollectiveTable::parse(text), UsageError) << text;
  }
}

// Breaks when a value of the axis is not what it says, or a wrong one is taken.
TEST(AllReduceChoice, ValuesOfTheAxis) {
  EXPECT_EQ(parse_all_reduce("auto"), AllReduceChoice::kAuto);
  EXPECT_EQ(parse_all_reduce("nccl"), AllReduceChoice::kNccl);
  EXPECT_EQ(parse_all_reduce("oneshot"), AllReduceChoice::kOneShot);
  EXPECT_EQ(parse_all_reduce("twoshot"), AllReduceChoice::kTwoShot);
  EXPECT_THROW(parse_all_reduce("nvls"), UsageError);
}

// Breaks when devices that cannot reach each other end a case that NCCL can sum, when what is forced and not there is replaced in
// silence, or when NCCL is met though nobody needs it.
TEST(Ways, WithoutPeersNcclSums) {
  const std::string no_peers = "ranks 0 and 1: devices cannot reach each other's memory";
  const CollectiveTable table = CollectiveTable::parse("oneshot:1024 twoshot:4096 nccl");
  int asked = 0;
  const auto there = [&] { return ++asked, std::string(); };
  const auto missing = [&] { return ++asked, std::string("no libnccl.so.2"); };
  using enum AllReduceChoice;
  EXPECT_EQ(way_of(kAuto, 8, table, "", there), CollectiveWay::kOneShot);
  EXPECT_EQ(way_of(kAuto, 2048, table, "", there), CollectiveWay::kTwoShot);
  EXPECT_EQ(way_of(kTwoShot, 8, table, "", missing), CollectiveWay::kTwoShot);
  EXPECT_EQ(asked, 0);
  EXPECT_EQ(way_of(kAuto, 1 << 20, table, "", there), CollectiveWay::kNccl);
  EXPECT_EQ(way_of(kAuto, 1 << 20, table, "", missing), CollectiveWay::kTwoShot);
  for (const int64_t bytes : {8, 2048, 1 << 20})
    EXPECT_EQ(way_of(kAuto, bytes, table, no_peers, there), CollectiveWay::kNccl);
  const auto refused = [&](AllReduceChoice choice, const std::function<std::string()>& nccl,
                           const char* why) {
    try {
      way_of(choice, 8, table, no_peers, nccl);
      ADD_FAILURE() << why;
    } catch (const ImpossibleCase& e) {
      EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
    }
  };
  refused(kOneShot, there, "allreduce: oneshot: ranks 0 and 1: devices cannot reach");
  refused(kTwoShot, there, "allreduce: twoshot: ranks 0 and 1: devices cannot reach");
  refused(kAuto, missing, "allreduce: nccl: no libnccl.so.2; own kernels: ranks 0 and 1");
  refused(kNccl, missing, "allreduce: nccl: no libnccl.so.2");
  EXPECT_EQ(ways_text(kAuto, table, ""), "oneshot:1024 twoshot:4096 nccl");
  EXPECT_EQ(ways_text(kAuto, table, no_peers), "nccl: " + no_peers);
  EXPECT_EQ(ways_text(kOneShot, table, ""), "oneshot");
}

}  // namespace
}  // namespace tandem::kernels
