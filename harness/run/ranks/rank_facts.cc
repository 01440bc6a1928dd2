#include "harness/run/ranks/rank_facts.h"

#include <unistd.h>

#include <climits>

namespace tandem {

using nlohmann::json;

RankRecord rank_facts(const EngineRegistry& registry, EngineTraits engine, int rank, int device,
                      const NvmlFunctions* functions) {
  RankRecord r{.rank = rank};
  char host[HOST_NAME_MAX + 1] = {};
  if (::gethostname(host, sizeof(host) - 1) == 0) r.host = host;
  if (engine.on_host) return r;
  r.device = device;
  if (const auto card = card_in_use(functions, registry.card_uuid(device), device)) {
    r.card = card->name;
    r.uuid = card->uuid;
  }
  return r;
}

json facts_to_json(const RankRecord& r) {
  return {{"rank", r.rank},
          {"host", r.host},
          {"device", r.device ? json(*r.device) : json()},
          {"card", r.card ? json(*r.card) : json()},
          {"uuid", r.uuid ? json(*r.uuid) : json()}};
}

RankRecord facts_from_json(const json& j) {
  RankRecord r{.rank = j.at("rank").get<int>(), .host = j.at("host").get<std::string>()};
  if (!j.at("device").is_null()) r.device = j.at("device").get<int>();
  if (!j.at("card").is_null()) r.card = j.at("card").get<std::string>();
  if (!j.at("uuid").is_null()) r.uuid = j.at("uuid").get<std::string>();
  return r;
}

}  // namespace tandem
