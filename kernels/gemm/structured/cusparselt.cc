#include "kernels/gemm/structured/cusparselt.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

namespace tandem::kernels::cusparselt {
namespace {

namespace fs = std::filesystem;

constexpr const char* kName = "libcusparseLt.so.0";
constexpr const char* kBelowPackages = "nvidia/cusparselt/lib";

/// PREFIX/lib/python3*/{site,dist}-packages of each PREFIX/bin on PATH.
std::vector<std::string> in_python() {
  std::vector<std::string> found;
  const char* path = std::getenv("PATH");
  std::string_view rest = path == nullptr ? "" : path;
  while (!rest.empty()) {
    const std::string_view folder = rest.substr(0, rest.find(':'));
    rest.remove_prefix(std::min(rest.size(), folder.size() + 1));
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(fs::path(folder).parent_path() / "lib", error)) {
      if (!entry.path().filename().string().starts_with("python3")) continue;
      for (const char* packages : {"site-packages", "dist-packages"}) {
        const fs::path file = entry.path() / packages / kBelowPackages / kName;
        if (fs::exists(file, error)) found.push_back(file.string());
      }
    }
  }
  return found;
}

template <typename F>
void load(void* library, F& function, const char* name, std::string& missing) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  if (function == nullptr && missing.empty()) missing = name;
}

/// The name of the first function that the library lacks; empty when it has all.
std::string load_all(void* library, Functions& f) {
  std::string missing;
#define TANDEM_LOAD(name) load(library, f.name, "cusparseLt" #name, missing)
  TANDEM_LOAD(Init);
  TANDEM_LOAD(Destroy);
  TANDEM_LOAD(GetVersion);
  TANDEM_LOAD(GetErrorString);
  TANDEM_LOAD(DenseDescriptorInit);
  TANDEM_LOAD(StructuredDescriptorInit);
  TANDEM_LOAD(MatDescriptorDestroy);
  TANDEM_LOAD(MatmulDescriptorInit);
  TANDEM_LOAD(MatmulDescSetAttribute);
  TANDEM_LOAD(MatmulAlgSelectionInit);
  TANDEM_LOAD(MatmulAlgSelectionDestroy);
  TANDEM_LOAD(MatmulAlgSetAttribute);
  TANDEM_LOAD(MatmulAlgGetAttribute);
  TANDEM_LOAD(MatmulPlanInit);
  TANDEM_LOAD(MatmulPlanDestroy);
  TANDEM_LOAD(MatmulGetWorkspace);
  TANDEM_LOAD(Matmul);
  TANDEM_LOAD(SpMMACompressedSize);
  TANDEM_LOAD(SpMMACompress);
#undef TANDEM_LOAD
  return missing;
}

Library open() {
  const char* given = std::getenv("TANDEM_CUSPARSELT");
  if (given != nullptr && std::string_view(given) == "none")
    return {.functions = nullptr, .path = {}, .lacks = "cuSPARSELt: TANDEM_CUSPARSELT is 'none'"};
  std::vector<std::string> places = {given != nullptr ? given : kName};
  if (given == nullptr) {
    for (std::string& file : in_python()) places.push_back(std::move(file));
  }
  static Functions functions;
  for (const std::string& place : places) {
    void* opened = ::dlopen(place.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) continue;
    const std::string missing = load_all(opened, functions);
    if (missing.empty()) return {.functions = &functions, .path = place, .lacks = {}};
    return {
        .functions = nullptr, .path = {}, .lacks = fmt::format("cuSPARSELt: {} has no {}", place, missing)};
  }
  return {.functions = nullptr,
          .path = {},
          .lacks = fmt::format("cuSPARSELt: no {}, looked for in {} and in {} of the Pythons on PATH", kName,
                               given != nullptr ? given : "the loader's places", kBelowPackages)};
}

}  // namespace

const Library& library() {
  static const Library found = open();
  return found;
}

}  // namespace tandem::kernels::cusparselt
