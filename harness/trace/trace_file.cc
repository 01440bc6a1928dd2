#include "harness/trace/trace_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>

#include "harness/base/error.h"

namespace tandem {
namespace {

using nlohmann::json;

/// Gives each distinct value its place in a list.
template <typename T>
class Table {
 public:
  size_t place(const T& value) { return places_.emplace(value, places_.size()).first->second; }
  std::vector<T> list() const {
    std::vector<T> values(places_.size());
    for (const auto& [value, place] : places_) values[place] = value;
    return values;
  }

 private:
  std::map<T, size_t> places_;
};

int64_t origin(const Trace& trace, std::span<const Replay> replays) {
  int64_t first = std::numeric_limits<int64_t>::max();
  for (const Replay& r : replays) first = std::min(first, r.start_ns);
  for (const Activity& a : trace.activities) first = std::min(first, a.start_ns);
  for (const HostSpan& s : trace.calls) first = std::min(first, s.start_ns);
  for (const HostSpan& s : trace.markers) first = std::min(first, s.start_ns);
  return first;
}

json spans_json(const std::vector<HostSpan>& spans, int64_t zero, Table<std::string>& names) {
  json name = json::array(), start = json::array(), duration = json::array(), correlation = json::array();
  for (const HostSpan& s : spans) {
    name.push_back(names.place(s.name));
    start.push_back(s.start_ns - zero);
    duration.push_back(s.end_ns - s.start_ns);
    correlation.push_back(s.correlation);
  }
  return {{"name", name}, {"start", start}, {"duration", duration}, {"correlation", correlation}};
}

}  // namespace

json trace_json(const Trace& trace, std::span<const Replay> replays, const json& about) {
  const int64_t zero = origin(trace, replays);
  Table<std::string> names;
  Table<Phase> phases;
  json kind = json::array(), name = json::array(), start = json::array(), duration = json::array(),
       stream = json::array(), bytes = json::array(), node = json::array(), correlation = json::array(),
       phase = json::array();
  for (const Activity& a : trace.activities) {
    kind.push_back(activity_kind_name(a.kind));
    name.push_back(names.place(a.name));
    start.push_back(a.start_ns - zero);
    duration.push_back(a.end_ns - a.start_ns);
    stream.push_back(a.stream);
    bytes.push_back(a.bytes);
    node.push_back(a.graph_node);
    correlation.push_back(a.correlation);
    phase.push_back(a.phase ? json(phases.place(*a.phase)) : json());
  }
  json file = about;
  file["format"] = "tandem-trace";
  file["schema"] = kTraceSchema;
  file["dropped"] = trace.dropped;
  file["untimed"] = trace.untimed;
  file["missing"] = trace.missing;
  file["complete"] = trace.complete();
  file["overhead_ns"] = trace.overhead_ns;
  file["activities"] = {
      {"kind", kind},     {"name", name},   {"start", start},     {"duration", duration},
      {"stream", stream}, {"bytes", bytes}, {"graph_node", node}, {"correlation", correlation},
      {"phase", phase}};
  file["calls"] = spans_json(trace.calls, zero, names);
  file["markers"] = spans_json(trace.markers, zero, names);
  json windows = json::array();
  for (const Replay& r : replays) {
    windows.push_back({{"start", r.start_ns - zero}, {"end", r.end_ns - zero}, {"event_us", r.event_us}});
  }
  file["replays"] = windows;
  file["names"] = names.list();
  json list = json::array();
  for (const Phase& p : phases.list()) {
    list.push_back({{"side", side_name(p.side)}, {"phase", phase_name(p.kind)}, {"layer", p.layer}});
  }
  file["phases"] = list;
  return file;
}

void write_trace(const std::string& path, const json& trace) {
  std::ofstream out(path, std::ios::trunc);
  out << trace.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
  out.close();
  if (!out) throw IoError(fmt::format("{}: cannot write the trace: {}", path, std::strerror(errno)));
}

}  // namespace tandem
