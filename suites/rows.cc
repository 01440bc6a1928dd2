#include "suites/rows.h"

#include <fmt/format.h>

#include "harness/cost/ceilings.h"
#include "harness/model/config.h"
#include "harness/sweep/op_shape.h"

namespace tandem {
namespace {

constexpr int kShapeWidth = 26;  // "m 4096 n 16384 k 16384" and a little

std::string show_us(double us) {
  if (us >= 1e6) return fmt::format("{:.3f} s", us * 1e-6);
  if (us >= 1e4) return fmt::format("{:.3f} ms", us * 1e-3);
  return fmt::format("{:.2f} us", us);
}

}  // namespace

std::string row_of(const Record& r, size_t width) {
  std::string row = fmt::format("{:<{}}  ", r.name, width);
  if (!r.summary) {
    return row + fmt::format("{}: {}", status_name(r.status), r.reason.value_or("no reason given"));
  }
  if (r.c.suite == Suite::kKernels)
    row += fmt::format("{:<{}}", op_shape(r.c, load_model(r.c.model)), kShapeWidth);
  row += fmt::format("{:>12}", show_us(r.summary->median_us));
  row += r.summary->ci95_lo_us && r.summary->ci95_hi_us
             ? fmt::format("  [{}, {}]", show_us(*r.summary->ci95_lo_us), show_us(*r.summary->ci95_hi_us))
             : fmt::format("  [{} samples]", r.summary->n);
  if (is_op_suite(r.c.suite) && r.summary->ci95_lo_us) row += fmt::format(" of {}", r.summary->n);
  if (r.metrics.step_us) row += fmt::format("  step {}", show_us(*r.metrics.step_us));
  if (r.floor.floor_us) row += fmt::format("  floor {}", show_us(*r.floor.floor_us));
  if (r.floor.floor_us && r.floor.ratio) row += fmt::format(" x{:.2f}", *r.floor.ratio);
  if (r.floor.ratio && *r.floor.ratio < kBeatenFloor)
    row += "  FASTER THAN ITS FLOOR: the ceilings are in question (tandem doctor)";
  if (r.metrics.gigabytes_per_second) row += fmt::format("  {:.1f} GB/s", *r.metrics.gigabytes_per_second);
  if (r.metrics.teraflops) row += fmt::format("  {:.3f} TFLOP/s", *r.metrics.teraflops);
  if (r.check && r.check->error) row += fmt::format("  error {:.1e}", *r.check->error);
  if (r.check && r.check->error && r.check->tolerance) row += fmt::format(" of {:.0e}", *r.check->tolerance);
  if (r.status != Status::kOk) row += fmt::format("  {}: {}", status_name(r.status), r.reason.value_or(""));
  return row;
}

}  // namespace tandem
