// A record with every field set, for tests.
#pragma once

#include "harness/record/record.h"

namespace tandem::testing {

inline Record full_record() {
  Case c;
  c.model = "transformer-big";
  c.batch = 8;
  c.kv = "fp8";
  c.engine = "reference";
  Record r = make_record(c, 2, 1);
  r.status = Status::kOk;
  r.reason = "none";
  r.samples = SamplesRef{"samples/" + r.id + "-2.f32", 6, std::string(64, 'a')};
  r.summary = summarize({10, 11, 12, 13, 14, 15});
  r.metrics = {.step_us = 1.5,
               .first_token_us = 3,
               .sm_cycles = 23760,
               .inter_token_p50_us = 1.25,
               .inter_token_p95_us = 1.75,
               .inter_token_p99_us = 2,
               .tokens_per_second = 64,
               .graph_build_us = 7,
               .load_us = 8,
               .gigabytes_per_second = 9,
               .teraflops = 0.25};
  r.floor = {.floor_us = 5,
             .floor_phases_us = 6,
             .floor_l2_us = 4,
             .step_floor_us = 1,
             .ratio = 2.5,
             .bound = "bytes",
             .link_gbs = 450,
             .links_us = 0.125};
  r.model = ModelRow{
      .card_gbs = 450,
      .call_us = 4,
      .degrees = {{.tp = 1, .sample_us = 40}, {.tp = 2, .sample_us = 30, .comm_us = 5, .step_us = 3}}};
  r.bytes = 1e6;
  r.flops = 2e6;
  r.phases = {{"decoder", "self.qkv", 1, 2, 3}, {"decoder", "comm", 0, 0, 0, 64}};
  r.peak_bytes = 1 << 20;
  r.planned_bytes = 1 << 19;
  r.weights_bytes = 1 << 18;
  r.fraction_kept = 0.5;
  r.pruned = PrunedRow{.removed = {{.what = "weights", .removed = 500, .of = 1000},
                                   {.what = "decoder layers", .removed = 2, .of = 4, .which = {1, 3}}},
                       .products_kept = 0.25,
                       .kernels = {"decoder self.out: own, 2:4"}};
  r.planted = PlantedRow{.percent = 2, .grown_percent = 2.01, .standard_error_percent = 0.05, .amount = 77};
  r.check = Check{.reference = "reference",
                  .error = 1e-6,
                  .tolerance = 1e-5,
                  .where = "row 1",
                  .tokens_equal = true,
                  .tokens_compared = 8,
                  .tokens_excused = 0,
                  .digest = "d",
                  .digest_after = "d",
                  .remembered_from = "2026-01-31T12:00:00Z"};
  r.accuracy = Accuracy{.relative_error = 0.01,
                        .kl = 0.002,
                        .tokens_agree = 0.99,
                        .free_tokens_agree = 0.75,
                        .tokens = 256,
                        .teacher_forced = true,
                        .synthetic_weights = true};
  r.ranks = {{.rank = 1,
              .host = "node",
              .device = 0,
              .card = "NVIDIA H200",
              .uuid = "GPU-1",
              .median_us = 12,
              .wait_us = 0.5,
              .exchange = "oneshot:1024 twoshot",
              .clocks = RankClocks{.sm_mhz = 1755,
                                   .mean_sm_mhz = 1750,
                                   .temperature_c = 61,
                                   .power_w = 698,
                                   .throttled_blocks = 1,
                                   .reasons = {"sw_power_cap"},
                                   .contended = false}}};
  r.regime = "burst";
  r.l2 = "in_situ";
  r.contended = false;
  r.warmup_repetitions = 4;
  r.warmup_s = 0.1;
  r.warmup_steady = true;
  r.warmup_confirmed = false;
  r.stop_rule = "ci";
  r.stop_target = 0.01;
  r.stop_reached = true;
  r.clock_blocks = {{.first_sample = 0,
                     .samples = 6,
                     .sm_mhz = 1980,
                     .temperature_c = 50,
                     .power_w = 400,
                     .reasons = {"sw_power_cap"}}};
  r.throttled_samples = 6;
  r.clock_state = ClockState::kThrottled;
  r.order_seed = 18446744073709551615ull;
  r.profiler_mapped = false;
  r.kernels = {"decoder ffn.down: own", "decoder head: library"};
  r.choices_sha256 = std::string(64, 'c');
  r.started = "2026-01-31T12:00:00Z";
  r.wall_s = 1.25;
  return r;
}

}  // namespace tandem::testing
