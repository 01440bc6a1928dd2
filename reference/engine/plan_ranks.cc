#include "reference/engine/plan_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <random>
#include <utility>

#include "harness/base/error.h"

namespace tandem::reference {
namespace {

/// The CommOp at `op`, or null.
const CommOp* comm_at(const StepPlan& plan, int op) {
  return std::get_if<CommOp>(&plan.ops.at(static_cast<size_t>(op)).body);
}

void expect_alike(const StepPlan& first, const StepPlan& other, int rank) {
  const auto refuse = [&](const std::string& what) {
    throw Error(fmt::format("plan of rank {}: {} than that of rank 0", rank, what));
  };
  if (other.buffers.size() != first.buffers.size()) refuse("other buffers");
  if (other.ops.size() != first.ops.size()) refuse("other operations");
  for (size_t i = 0; i < first.buffers.size(); ++i) {
    const PlanBuffer &a = first.buffers[i], &b = other.buffers[i];
    if (a.name != b.name || a.dtype != b.dtype || a.elements != b.elements ||
        a.offset_bytes != b.offset_bytes)
      refuse(fmt::format("another place or size of buffer '{}'", b.name));
  }
}

}  // namespace

// ---- Meeting
// ----------------------------------------------------------------------------------------------------------

PlanInterpreter::Part PlanInterpreter::part(const CommOp& op) const {
  if (buffer(op.x).dtype == DType::kI32) return {.values = {}, .integers = read_ints(op.x)};
  return {.values = read(op.x), .integers = {}};
}

void PlanInterpreter::meet(const CommOp& op, std::span<const Part> ranks) {
  if (op.kind == CommKind::kAllGather) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const PlanTensor place = op.y.some_rows(static_cast<int64_t>(rank) * op.x.rows, op.x.rows);
      const Part& part = ranks[rank];
      if (part.integers.empty()) write(place, part.values);
      for (int64_t i = 0; i < static_cast<int64_t>(part.integers.size()); ++i)
        write_int(place, i / place.cols, i % place.cols, part.integers[static_cast<size_t>(i)]);
    }
    return;
  }
  Matrix sum = ranks.front().values;
  if (sum.values.empty()) refuse_type(op.x, "f32, f16, bf16");
  for (const Part& part : ranks.subspan(1)) sum = add(sum, part.values);
  if (!op.y.empty()) write(op.y, sum);
  if (op.norm) norm(*op.norm, sum);
}

void PlanInterpreter::apply(const CommOp& op) {
  if (plan_.slice.degree != 1)
    throw Error(fmt::format("{}: one rank of {} runs alone", where(), plan_.slice.degree));
  const Part mine = part(op);
  meet(op, {&mine, 1});
}

// ---- Ranks
// ------------------------------------------------------------------------------------------------------------

RankOrder forward_order() {
  return [](std::span<const int> ready) { return ready.front(); };
}
RankOrder reverse_order() {
  return [](std::span<const int> ready) { return ready.back(); };
}
RankOrder random_order(uint64_t seed) {
  return [rng = std::make_shared<std::mt19937_64>(seed)](std::span<const int> ready) {
    return ready[(*rng)() % ready.size()];
  };
}

RankInterpreters::RankInterpreters(std::span<const StepPlan> plans) : plans_(plans) {
  const auto degree = static_cast<int>(plans.size());
  for (int r = 0; r < degree; ++r) {
    const StepPlan& plan = plans[static_cast<size_t>(r)];
    if (plan.slice != TensorSlice{.degree = degree, .rank = r}) {
      throw Error(fmt::format("plan {} of {} is that of rank {} of {}", r, degree, plan.slice.rank,
                              plan.slice.degree));
    }
    expect_alike(plans.front(), plan, r);
    ranks_.emplace_back(plan);
  }
}

void RankInterpreters::run(PlanSection section, const RankOrder& order) {
  const OpRange range = plans_.front().section(section);
  std::vector<int> at(ranks_.size(), range.first);
  std::vector<bool> waits(ranks_.size(), false);
  const auto ready = [&] {
    std::vector<int> ranks;
    for (int r = 0; r < size(); ++r) {
      if (!waits[static_cast<size_t>(r)] && at[static_cast<size_t>(r)] < range.last) ranks.push_back(r);
    }
    return ranks;
  };
  for (std::vector<int> ranks = ready(); !ranks.empty(); ranks = ready()) {
    const int r = order(ranks);
    const int op = at[static_cast<size_t>(r)];
    const StepPlan& plan = plans_[static_cast<size_t>(r)];
    rank(r).enter(op);
    if (comm_at(plan, op) == nullptr) {
      std::visit([&](const auto& body) { rank(r).apply(body); }, plan.ops[static_cast<size_t>(op)].body);
      rank(r).leave();
      ++at[static_cast<size_t>(r)];
      continue;
    }
    waits[static_cast<size_t>(r)] = true;
    if (std::ranges::count(waits, true) < size()) continue;
    for (int other = 0; other < size(); ++other) {
      if (at[static_cast<size_t>(other)] == op) continue;
      throw Error(fmt::format("plans: rank {} waits at {}, rank {} at {}", other,
                              op_text(plans_[static_cast<size_t>(other)], at[static_cast<size_t>(other)]), r,
                              op_text(plan, op)));
    }
    meet(op);
    waits.assign(waits.size(), false);
    for (int& next : at) ++next;
  }
  if (std::ranges::count(waits, true) == 0) return;
  const auto r = static_cast<size_t>(std::ranges::find(waits, true) - waits.begin());
  throw Error(fmt::format("plans: rank {} waits at {}, where another rank does not come", r,
                          op_text(plans_[r], at[r])));
}

void RankInterpreters::meet(int op) {
  const auto comm = [&](int r) -> const CommOp& { return *comm_at(plans_[static_cast<size_t>(r)], op); };
  const CommOp& first = comm(0);
  std::vector<PlanInterpreter::Part> parts;
  for (int r = 0; r < size(); ++r) {
    const CommOp& mine = comm(r);
    if (mine.kind != first.kind || mine.x.rows != first.x.rows || mine.x.cols != first.x.cols ||
        mine.x.buffer != first.x.buffer || mine.x.offset != first.x.offset) {
      throw Error(
          fmt::format("plans: ranks 0 and {} do not bring the same to {}", r, op_text(plans_.front(), op)));
    }
    parts.push_back(rank(r).part(mine));
  }
  for (int r = 0; r < size(); ++r) {
    rank(r).meet(comm(r), parts);
    rank(r).leave();
  }
}

Matrix RankInterpreters::logits() const {
  const int64_t rows = rank(0).logits().rows;
  Matrix all(rows, plans_.front().config.vocab);
  int64_t first = 0;
  for (const PlanInterpreter& r : ranks_) {
    const Matrix& part = r.logits();
    for (int64_t row = 0; row < rows; ++row) std::copy_n(part.row(row), part.cols, all.row(row) + first);
    first += part.cols;
  }
  if (first != all.cols) throw Error(fmt::format("plans: the ranks have {} logits of {}", first, all.cols));
  return all;
}

}  // namespace tandem::reference
