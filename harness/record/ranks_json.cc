#include "harness/record/ranks_json.h"

#include <string>

#include "harness/record/json_fields.h"

namespace tandem {
namespace {

using nlohmann::json;

json rank_clocks_to_json(const std::optional<RankClocks>& c) {
  if (!c) return {};
  return {{"sm_mhz", maybe(c->sm_mhz)},
          {"mean_sm_mhz", maybe(c->mean_sm_mhz)},
          {"temperature_c", maybe(c->temperature_c)},
          {"power_w", maybe(c->power_w)},
          {"throttled_blocks", maybe(c->throttled_blocks)},
          {"reasons", c->reasons},
          {"contended", maybe(c->contended)}};
}

RankClocks rank_clocks_from_json(const json& j) {
  RankClocks c;
  read(j, "sm_mhz", c.sm_mhz);
  read(j, "mean_sm_mhz", c.mean_sm_mhz);
  read(j, "temperature_c", c.temperature_c);
  read(j, "power_w", c.power_w);
  read(j, "throttled_blocks", c.throttled_blocks);
  c.reasons = j.at("reasons").get<std::vector<std::string>>();
  read(j, "contended", c.contended);
  return c;
}

}  // namespace

json ranks_to_json(const std::vector<RankRecord>& ranks) {
  json list = json::array();
  for (const RankRecord& r : ranks) {
    list.push_back({{"rank", r.rank},
                    {"host", r.host},
                    {"device", maybe(r.device)},
                    {"card", maybe(r.card)},
                    {"uuid", maybe(r.uuid)},
                    {"median_us", maybe(r.median_us)},
                    {"wait_us", maybe(r.wait_us)},
                    {"exchange", maybe(r.exchange)},
                    {"clocks", rank_clocks_to_json(r.clocks)}});
  }
  return list;
}

RankRecord rank_from_json(const json& j) {
  RankRecord r{.rank = j.at("rank").get<int>(), .host = j.at("host").get<std::string>()};
  read(j, "device", r.device);
  read(j, "card", r.card);
  read(j, "uuid", r.uuid);
  read(j, "median_us", r.median_us);
  read(j, "wait_us", r.wait_us);
  read(j, "exchange", r.exchange);
  if (const json clocks = j.value("clocks", json()); !clocks.is_null())
    r.clocks = rank_clocks_from_json(clocks);
  return r;
}

}  // namespace tandem
