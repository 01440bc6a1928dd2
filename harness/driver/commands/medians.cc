// What a run ends with: each case's median, beside its floor.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "harness/driver/commands/commands.h"
#include "harness/driver/talk/terminal.h"

namespace tandem {
namespace {

struct Row {
  Case c;
  std::vector<float> medians = {};  ///< us, one a worker
  std::optional<double> floor_us = {};
  std::string failed = {};  ///< status of a case that was not measured
};

/// By suite, then by the axes in their order: batch 2 before batch 16.
bool before(const Case& a, const Case& b) {
  if (a.suite != b.suite) return a.suite < b.suite;
  for (const Axis& axis : axes()) {
    const std::string x = axis.get(a), y = axis.get(b);
    if (x != y) return axis.integer ? std::stoll(x) < std::stoll(y) : x < y;
  }
  return false;
}

}  // namespace

std::string medians_table(const std::vector<Record>& records, std::optional<size_t> width) {
  constexpr size_t kMostRows = 100;
  std::vector<Row> rows;
  std::map<std::string, size_t> place;
  size_t most = 0, skipped = 0;
  for (const Record& r : records) {
    if (r.status == Status::kSkipped) {
      ++skipped;
      continue;
    }
    const auto [at, is_new] = place.try_emplace(r.id, rows.size());
    if (is_new) rows.push_back({.c = r.c});
    Row& row = rows[at->second];
    if (r.status == Status::kOk && r.summary) {
      row.medians.push_back(static_cast<float>(r.summary->median_us));
      row.floor_us = r.floor.floor_us;
    } else {
      row.failed = status_name(r.status);
    }
    most = std::max(most, row.medians.size());
  }
  if (rows.empty()) return {};
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return before(a.c, b.c); });
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(case_name(row.c));
  const ShortNames shorter = shorten(names);
  std::string text;
  const auto line = [&](const std::string& content) {
    if (!text.empty()) text += '\n';
    text += width ? cut_to(content, *width) : content;
  };
  line(fmt::format("{:>9}  {:>9}  {:>8}  {}", "median", "floor", "of it",
                   shorter.shared.empty() ? "case" : "case, all " + shorter.shared));
  for (size_t i = 0; i < std::min(rows.size(), kMostRows); ++i) {
    const Row& row = rows[i];
    if (!row.failed.empty()) {
      line(fmt::format("{:>9}  {:>9}  {:>8}  {}", row.failed, "", "", shorter.names[i]));
      continue;
    }
    const double median_us = summarize(row.medians).median_us;
    line(fmt::format(
        "{:>9}  {:>9}  {:>8}  {}", show_us(median_us), row.floor_us ? show_us(*row.floor_us) : "-",
        row.floor_us ? fmt::format("x{:.3g}", median_us / *row.floor_us) : "-", shorter.names[i]));
  }
  if (rows.size() > kMostRows)
    line(fmt::format("... and {} more cases: see the report", rows.size() - kMostRows));
  if (most > 1) line(fmt::format("each the median of {} workers' medians", most));
  if (skipped > 0) line(fmt::format("{} skipped, with their reasons in records.jsonl", skipped));
  return text;
}

}  // namespace tandem
