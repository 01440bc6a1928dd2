// `tandem list SWEEP --tp N`: what a model of the machine says of N cards, for planning beyond what is here.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness/base/error.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/run/case_cost.h"

namespace tandem {
namespace {

using nlohmann::json;

struct Row {
  Case c;  ///< with tp 1
  std::optional<ModelTime> one, ranks;
  std::string reason;  ///< why there is no time
};

Case with_tp(Case c, int tp) {
  c.tp = tp;
  return c;
}

/// Passes of the sweep, each once whatever its tp.
std::vector<Row> rows_of(const RunPlan& plan) {
  std::vector<Row> rows;
  std::set<std::string> seen;
  const auto add = [&](const Case& c) {
    const Case one = with_tp(c, 1);
    if (is_model_suite(c.suite) && seen.insert(case_id(one)).second) rows.push_back({one, {}, {}, {}});
  };
  for (const Case& c : plan.sweep.cases) add(c);
  for (const SkippedCase& s : plan.sweep.skipped) add(s.c);
  return rows;
}

void predict(Row& row, const ListRanksArgs& args, const Ceilings& ceilings) {
  try {
    const ModelConfig config = load_model(row.c.model);
    row.one = model_us(case_cost(row.c, config), ceilings, 1, args.links);
    row.ranks = model_us(case_cost(with_tp(row.c, args.tp), config), ceilings, args.tp, args.links);
    if (!row.one || !row.ranks) row.reason = "a ceiling that it needs was not measured";
  } catch (const ImpossibleCase& e) {
    row.reason = e.what();
  }
}

std::string says(const ListRanksArgs& args, const Ceilings& ceilings) {
  const Links& l = args.links;
  std::string text = fmt::format(
      "a model, not a measurement: per rank, the longer of bytes and operations of each phase at the "
      "ceilings of {} "
      "({}), launches at an empty node, and all-reduces within a host of {} cards at {} GB/s, {} us a call, "
      "none of "
      "them overlapped",
      ceilings.machine, ceilings.measured_at, l.cards_per_host, l.card_gbs, l.call_us);
  if (l.network_us)
    text += fmt::format("; between hosts {} GB/s a card, {} us there and back", l.network_gbs, *l.network_us);
  return text + ". Nothing is fitted to the time of a pass; real kernels take longer than their ceilings say";
}

void print_table(const std::vector<Row>& rows, int tp) {
  size_t width = 4;
  for (const Row& row : rows) width = std::max(width, case_name(row.c).size());
  fmt::print("{:<{}}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8}  {}\n", "model of (tp 1)", width, "tp 1",
             fmt::format("tp {}", tp), "of it comm", "launches", "speed-up", "no time because");
  for (const Row& row : rows) {
    if (!row.reason.empty()) {
      fmt::print("{:<{}}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8}  {}\n", case_name(row.c), width, "-", "-",
                 "-", "-", "-", row.reason);
      continue;
    }
    fmt::print("{:<{}}  {:>10}  {:>10}  {:>10}  {:>10}  {:>8}\n", case_name(row.c), width,
               show_us(row.one->total_us()), show_us(row.ranks->total_us()), show_us(row.ranks->comm_us),
               show_us(row.ranks->launches_us),
               fmt::format("{:.2f}x", row.one->total_us() / row.ranks->total_us()));
  }
}

json time_json(const std::optional<ModelTime>& t) {
  if (!t) return {};
  return {{"total_us", t->total_us()},
          {"work_us", t->work_us},
          {"launches_us", t->launches_us},
          {"comm_us", t->comm_us}};
}

void print_json(const std::vector<Row>& rows, const ListRanksArgs& args, const Ceilings& ceilings) {
  json list = json::array();
  for (const Row& row : rows) {
    list.push_back({{"name", case_name(row.c)},
                    {"case", case_to_json(row.c)},
                    {"tp_1", time_json(row.one)},
                    {fmt::format("tp_{}", args.tp), time_json(row.ranks)},
                    {"reason", row.reason.empty() ? json() : json(row.reason)}});
  }
  fmt::print("{}\n", json{{"model", says(args, ceilings)}, {"cases", list}}.dump(1));
}

}  // namespace

int list_ranks_command(const RunArgs& run, const ListRanksArgs& args, bool as_json) {
  const RunPlan plan = plan_run(run);
  const auto ceilings = args.ceilings.empty() ? stored_ceilings(ceilings_card(plan))
                                              : std::optional(read_ceilings(args.ceilings));
  if (!ceilings) {
    throw UsageError(
        "list: --tp needs the ceilings of a card: `tandem run` measures those of this machine, --ceilings "
        "reads a "
        "file that `suite_limits --measure-ceilings` wrote");
  }
  all_reduce_us(1, args.tp, args.links);  // bad links are refused before any row
  std::vector<Row> rows = rows_of(plan);
  for (Row& row : rows) predict(row, args, *ceilings);
  if (as_json) {
    print_json(rows, args, *ceilings);
  } else {
    print_table(rows, args.tp);
    say(says(args, *ceilings));
  }
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
