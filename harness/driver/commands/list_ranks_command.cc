// `tandem list SWEEP --tp N,...`: what a model of the machine says of N cards, for planning beyond what is here.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "harness/base/error.h"
#include "harness/base/json_text.h"
#include "harness/driver/commands/commands.h"
#include "harness/driver/session/ceilings_store.h"
#include "harness/driver/talk/terminal.h"
#include "harness/run/case_cost.h"
#include "harness/sweep/files.h"

namespace tandem {
namespace {

using nlohmann::json;

struct Row {
  Case c;  ///< on one card
  std::map<int, CaseModel> by_tp;
  std::string reason;  ///< why there is no time of some degree

  /// Of suite_generate the mean step, of the others the sample; nullptr where there is none.
  const ModelTime* shown(int tp) const {
    const auto it = by_tp.find(tp);
    if (it == by_tp.end()) return nullptr;
    return it->second.step ? &*it->second.step : &it->second.sample;
  }
  /// The degree is the columns'.
  std::string name() const {
    const std::string tp = "/tp:1";
    std::string text = case_name(c);
    return text.erase(text.find(tp + "/"), tp.size());
  }
};

/// Passes of the sweep, each once whatever its degrees, by the engine that cards have.
std::vector<Row> rows_of(const std::vector<PlannedSweep>& planned) {
  std::vector<Row> rows;
  std::set<std::string> seen;
  const auto add = [&](Case c) {
    c.tp = c.dp = 1;
    c.engine = "cuda";
    if (is_model_suite(c.suite) && seen.insert(case_id(c)).second) rows.push_back({c, {}, {}});
  };
  for (const auto& [args, plan] : planned) {
    for (const Case& c : plan.sweep.cases) add(c);
    for (const SkippedCase& s : plan.sweep.skipped) add(s.c);
  }
  return rows;
}

void predict(Row& row, const std::vector<int>& degrees, const Links& links, const Ceilings& ceilings) {
  for (const int tp : degrees) {
    try {
      if (const auto time = case_model(row.c, load_model(row.c.model), ceilings, tp, links)) {
        row.by_tp.emplace(tp, *time);
      } else {
        row.reason = "a ceiling that it needs was not measured";
      }
    } catch (const ImpossibleCase& e) {
      row.reason = e.what();
    }
  }
}

std::string says(const ListRanksArgs& args, const Ceilings& ceilings) {
  const Links& l = args.links;
  std::string text = fmt::format(
      "a model, not a measurement: per rank, the longer of bytes and operations of each phase at the "
      "ceilings of {} "
      "({}), launches at an empty node, and all-reduces within a host of {} cards at {} GB/s, {} us a call, "
      "none of "
      "them overlapped; a step of suite_generate, a pass of the others",
      ceilings.machine, ceilings.measured_at, l.cards_per_host, l.card_gbs, l.call_us);
  if (l.network_us)
    text += fmt::format("; between hosts {} GB/s a card, {} us there and back", l.network_gbs, *l.network_us);
  return text + ". Nothing is fitted to the time of a pass; real kernels take longer than their ceilings say";
}

void print_table(const std::vector<Row>& rows, const std::vector<int>& degrees) {
  std::string heads;
  for (const int tp : degrees) {
    heads += fmt::format("  {:>9}", fmt::format("tp {}", tp));
    if (tp > 1) heads += fmt::format("  {:>8}  {:>8}", "speed-up", "exchange");
  }
  const auto numbers = [&](const Row& row) {
    std::string text;
    const ModelTime* one = row.shown(1);
    for (const int tp : degrees) {
      const ModelTime* time = row.shown(tp);
      text += fmt::format("  {:>9}", time != nullptr ? show_us(time->total_us()) : "-");
      if (tp == 1) continue;
      const bool both = time != nullptr && one != nullptr;
      text += fmt::format("  {:>8}  {:>8}",
                          both ? fmt::format("{:.2f}x", one->total_us() / time->total_us()) : "-",
                          time != nullptr ? show_us(time->comm_us) : "-");
    }
    return text;
  };
  std::vector<std::string> full;
  for (const Row& row : rows) full.push_back(row.name());
  const ShortNames shorter = shorten(full);
  size_t longest = 0;
  for (const std::string& name : shorter.names) longest = std::max(longest, name.size());
  const auto width = terminal_width(1);
  const bool wide = !width || longest + heads.size() <= *width;
  const auto line = [&](const std::string& name, const std::string& cells, const std::string& reason) {
    const std::string more = reason.empty() ? "" : "  " + reason;
    if (wide) {
      fmt::print("{:<{}}{}{}\n", name, longest, cells, more);
    } else {
      fmt::print("{}\n{}\n", wrapped(name, *width, 2, '/'), wrapped(cells + more, *width, 4));
    }
  };
  if (!shorter.shared.empty()) {
    const std::string all = "all: " + shorter.shared;
    fmt::print("{}\n", width ? wrapped(all, *width, 5, '/') : all);
  }
  line("a model of", heads, "");
  for (size_t i = 0; i < rows.size(); ++i) line(shorter.names[i], numbers(rows[i]), rows[i].reason);
}

json time_json(const ModelTime& t) {
  return {{"total_us", t.total_us()},
          {"work_us", t.work_us},
          {"launches_us", t.launches_us},
          {"comm_us", t.comm_us}};
}

void print_json(const std::vector<Row>& rows, const std::vector<int>& degrees, const std::string& said) {
  json list = json::array();
  for (const Row& row : rows) {
    json of_one = {{"name", case_name(row.c)},
                   {"case", case_to_json(row.c)},
                   {"reason", row.reason.empty() ? json() : json(row.reason)}};
    for (const int tp : degrees) {
      json& time = of_one[fmt::format("tp_{}", tp)];
      if (!row.by_tp.contains(tp)) continue;
      const CaseModel& m = row.by_tp.at(tp);
      time = time_json(m.sample);
      time["step"] = m.step ? time_json(*m.step) : json();
    }
    list.push_back(std::move(of_one));
  }
  fmt::print("{}\n", json{{"model", said}, {"cases", list}}.dump(1));
}

/// A file of ceilings, or the environment of a run, which has those it was measured with.
Ceilings ceilings_of(const std::string& path) {
  const json j = parse_json_or_discard(read_file(path));
  if (!j.is_object() || !j.contains("ceilings")) return read_ceilings(path);
  try {
    return j["ceilings"].get<Ceilings>();
  } catch (const UsageError& e) {
    throw UsageError(fmt::format("{}: {}", path, e.what()));
  }
}

}  // namespace

int list_ranks_command(const RunArgs& run, const std::vector<std::string>& sweeps, const ListRanksArgs& args,
                       bool as_json) {
  const std::vector<PlannedSweep> planned = plan_sweeps(run, sweeps);
  const auto ceilings = args.ceilings.empty() ? stored_ceilings(ceilings_card(planned[0].plan))
                                              : std::optional(ceilings_of(args.ceilings));
  if (!ceilings) {
    throw UsageError(
        "list: --tp needs the ceilings of a card: `tandem run` measures those of this machine, --ceilings "
        "reads a file that `suite_limits --measure-ceilings` wrote, or the environment.json of a run");
  }
  std::set<int> asked(args.tp.begin(), args.tp.end());
  asked.insert(1);
  const std::vector<int> degrees(asked.begin(), asked.end());
  for (const int tp : degrees) all_reduce_us(1, tp, args.links);  // bad links are refused before any row
  std::vector<Row> rows = rows_of(planned);
  for (Row& row : rows) predict(row, degrees, args.links, *ceilings);
  const std::string said = says(args, *ceilings);
  if (as_json) {
    print_json(rows, degrees, said);
  } else {
    print_table(rows, degrees);
    say(said);
  }
  return static_cast<int>(ExitCode::kGood);
}

}  // namespace tandem
