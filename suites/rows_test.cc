#include "suites/rows.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

Record measured() {
  Record r = make_record(Case{}, 0, 1);
  r.name = "case";
  r.status = Status::kOk;
  Summary& summary = r.summary.emplace();
  summary.n = 3;
  summary.median_us = 10;
  r.floor.floor_us = 4;
  Check& check = r.check.emplace();
  check.reference = "reference";
  check.error = 1e-4;
  return r;
}

// Breaks when a ratio or a tolerance that nobody knows is printed as 0.
TEST(Rows, WhatIsMissingIsLeftOut) {
  Record r = measured();
  EXPECT_EQ(row_of(r, 6), "case        10.00 us  [3 samples]  floor 4.00 us  error 1.0e-04");
  r.floor.ratio = 2.5;
  r.check->tolerance = 0.02;
  EXPECT_EQ(row_of(r, 6), "case        10.00 us  [3 samples]  floor 4.00 us x2.50  error 1.0e-04 of 2e-02");
}

// Breaks when a case that beats its floor is shown as if its ceilings could be believed.
TEST(Rows, AFloorThatIsBeatenIsInQuestion) {
  Record r = measured();
  r.floor.ratio = 0.01;
  EXPECT_NE(row_of(r, 4).find("x0.01  FASTER THAN ITS FLOOR: the ceilings are in question"),
            std::string::npos);
  r.floor.ratio = 0.995;
  EXPECT_EQ(row_of(r, 4).find("question"), std::string::npos) << "noise";
}

// Breaks when nobody can say which matrix a row of a kernel is about, or how many samples its interval is of.
TEST(Rows, AKernelSaysItsSizesAndItsSamples) {
  Record r = measured();
  r.c.suite = Suite::kKernels;
  r.c.op = "gemm_qkv";
  r.c.model = "transformer-big";
  r.c.batch = 8;
  r.summary->ci95_lo_us = 9.9;
  r.summary->ci95_hi_us = 10.1;
  r.metrics.gigabytes_per_second = 629.1;
  EXPECT_EQ(
      row_of(r, 4),
      "case  m 8 n 3072 k 1024             10.00 us  [9.90 us, 10.10 us] of 3  floor 4.00 us  629.1 GB/s"
      "  error 1.0e-04");
}

// Breaks when a case without a time shows one, or no reason.
TEST(Rows, AFailureIsItsReason) {
  Record r = make_record(Case{}, 0, 1);
  r.name = "case";
  r.status = Status::kOom;
  EXPECT_EQ(row_of(r, 4), "case  oom: no reason given");
  r.reason = "out of memory";
  EXPECT_EQ(row_of(r, 4), "case  oom: out of memory");
}

}  // namespace
}  // namespace tandem
