// What another build says of itself.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

namespace tandem {

/// build_json() of the build in `bin_dir`, asked of its own `tandem`; "unknown" and nulls where it has none that can tell.
nlohmann::json build_of(const std::filesystem::path& bin_dir);

}  // namespace tandem
