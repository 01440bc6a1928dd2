// A plan in words.
#include <fmt/format.h>

#include <algorithm>

#include "harness/engine/plan.h"

namespace tandem {
namespace {

/// How an operation is done, for people: after its name.
std::string_view way(const PlanOp& op) {
  if (const auto* dense = std::get_if<DenseOp>(&op.body)) switch (dense->kernel) {
      case DenseKernel::kSkinny:
        return " skinny";
      case DenseKernel::kLibrary:
        return " library";
      case DenseKernel::kStructured:
        return " structured";
      case DenseKernel::kTiled:
        return " tiled";
    }
  if (const auto* comm = std::get_if<CommOp>(&op.body)) {
    if (comm->kind == CommKind::kAllGather) return " all_gather";
    return comm->norm ? " all_reduce, norm" : " all_reduce";
  }
  return "";
}

std::string_view kernel_name(const DenseOp& op) {
  switch (op.kernel) {
    case DenseKernel::kSkinny:
    case DenseKernel::kTiled:
      return "own";
    case DenseKernel::kStructured:
      return "cuSPARSELt";
    case DenseKernel::kLibrary:
      break;
  }
  return op.weight.sparse() ? "library on the unpacked matrix" : "library";
}

void add_once(std::vector<std::string>& lines, const Phase& phase, std::string_view what) {
  std::string line = fmt::format("{} {}: {}", side_name(phase.side), phase_name(phase.kind), what);
  if (std::ranges::find(lines, line) == lines.end()) lines.push_back(std::move(line));
}

}  // namespace

std::vector<std::string> kernel_lines(const StepPlan& plan) {
  std::vector<std::string> lines;
  for (const PlanOp& op : plan.ops) {
    if (const auto* dense = std::get_if<DenseOp>(&op.body)) {
      add_once(lines, op.phase, kernel_name(*dense));
      if (!dense->x_stats.empty())
        add_once(lines, {.kind = PhaseKind::kNorm, .side = op.phase.side}, "by statistics");
    }
    if (std::holds_alternative<HeadOp>(op.body)) add_once(lines, op.phase, "own");
  }
  return lines;
}

std::vector<std::string> sparse_kernels(const StepPlan& plan) {
  std::vector<std::string> lines;
  for (const PlanOp& op : plan.ops) {
    const auto* dense = std::get_if<DenseOp>(&op.body);
    if (dense == nullptr || op.phase.kind == PhaseKind::kHead) continue;
    const DenseWeight& w = dense->weight;
    const std::string_view storage = w.two_of_four ? "2:4" : w.bitmap != nullptr ? "bitmap" : "zeros stored";
    add_once(lines, op.phase, fmt::format("{}, {}", kernel_name(*dense), storage));
  }
  return lines;
}

std::string plan_text(const StepPlan& plan) {
  std::string text;
  const auto name = [&](const PlanTensor& t) {
    return fmt::format("{}[{}x{}]", plan.buffers[t.buffer].name, t.rows, t.cols);
  };
  for (int s = 0; s < kPlanSections; ++s) {
    const OpRange& range = plan.sections[s];
    if (range.first == range.last) continue;
    text += fmt::format("{}\n", section_name(static_cast<PlanSection>(s)));
    for (int op = range.first; op < range.last; ++op) {
      std::string in, out;
      for (const PlanAccess& a : accesses(plan.ops[op]))
        (a.write ? out : in).append(" ").append(name(a.tensor));
      text += fmt::format("  {:3} {}{} {}:{} ->{}\n", op, op_name(plan.ops[op]), way(plan.ops[op]),
                          phase_path(plan.ops[op].phase), in, out);
    }
  }
  text += fmt::format("arena {} bytes\n", plan.arena_bytes);
  for (const PlanBuffer& b : plan.buffers) {
    text += fmt::format("  {:10} +{:<10} {} {} x {}, operations {} to {}\n", b.offset_bytes, b.bytes(),
                        b.name, dtype_name(b.dtype), b.elements, b.first_op, b.last_op);
  }
  return text;
}

}  // namespace tandem
