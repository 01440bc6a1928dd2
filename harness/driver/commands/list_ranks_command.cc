// `tandem list SWEEP --tp N`: what a model of the machine says of N cards, for planning beyond what is here.
#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "harness/base/error.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/driver/talk/terminal.h"
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
std::vector<Row> rows_of(const std::vector<PlannedSweep>& planned) {
  std::vector<Row> rows;
  std::set<std::string> seen;
  const auto add = [&](const Case& c) {
    const Case one = with_tp(c, 1);
    if (is_model_suite(c.suite) && seen.insert(case_id(one)).second) rows.push_back({one, {}, {}, {}});
  };
  for (const auto& [args, plan] : planned) {
    for (const Case& c : plan.sweep.cases) add(c);
    for (const SkippedCase& s : plan.sweep.skipped) add(s.c);
  }
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
  const std::string heads = fmt::format("{:>10}  {:>10}  {:>10}  {:>10}  {:>8}", "tp 1",
                                        fmt::format("tp {}", tp), "of it comm", "launches", "speed-up");
  const auto numbers = [](const Row& row) {
    if (!row.reason.empty())
      return fmt::format("{:>10}  {:>10}  {:>10}  {:>10}  {:>8}", "-", "-", "-", "-", "-");
    return fmt::format("{:>10}  {:>10}  {:>10}  {:>10}  {:>8}", show_us(row.one->total_us()),
                       show_us(row.ranks->total_us()), show_us(row.ranks->comm_us),
                       show_us(row.ranks->launches_us),
                       fmt::format("{:.2f}x", row.one->total_us() / row.ranks->total_us()));
  };
  std::vector<std::string> names = {"model of (tp 1)"};
  for (const Row& row : rows) names.push_back(case_name(row.c));
  size_t longest = 0;
  for (const std::string& name : names) longest = std::max(longest, name.size());
  const auto width = terminal_width(1);
  const bool wide = !width || longest + 2 + heads.size() <= *width;
  const auto line = [&](const std::string& name, const std::string& cells, const std::string& reason) {
    const std::string more = reason.empty() ? "" : "  " + reason;
    if (wide) {
      fmt::print("{:<{}}  {}{}\n", name, longest, cells, more);
    } else {
      fmt::print("{}\n  {}\n", wrapped(name, *width, 2, '/'), wrapped(cells + more, *width - 2, 4));
    }
  };
  line(names[0], heads, "no time because");
  for (size_t i = 0; i < rows.size(); ++i) line(names[i + 1], numbers(rows[i]), rows[i].reason);
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

int list_ranks_command(const RunArgs& run, const std::vector<std::string>& sweeps, const ListRanksArgs& args,
                       bool as_json) {
  const std::vector<PlannedSweep> planned = plan_sweeps(run, sweeps);
  const auto ceilings = args.ceilings.empty() ? stored_ceilings(ceilings_card(planned[0].plan))
                                              : std::optional(read_ceilings(args.ceilings));
  if (!ceilings) {
    throw UsageError(
        "list: --tp needs the ceilings of a card: `tandem run` measures those of this machine, --ceilings "
        "reads a "
        "file that `suite_limits --measure-ceilings` wrote");
  }
  all_reduce_us(1, args.tp, args.links);  // bad links are refused before any row
  std::vector<Row> rows = rows_of(planned);
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
