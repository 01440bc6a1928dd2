// The Level-2 cache: one per GPU. Keeps and reuses the blocks of the level below, so that a steady state makes no driver
// call.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "harness/memory/memory_resource.h"

namespace tandem {

/// Best fit over segments of the upstream; a free block is split on allocation and merged with its free neighbours of the
/// same segment on return. Small requests share segments of kSegmentBytes; larger ones get one of their own size. When the
/// upstream is out of memory, segments with nothing handed out are given back and the request is tried once more.
class CachingResource : public MemoryResource {
 public:
  static constexpr int64_t kSegmentBytes = int64_t{2} << 20;

  /// `upstream` must outlive this.
  explicit CachingResource(MemoryResource& upstream) : upstream_(upstream) {}
  ~CachingResource() override;
  CachingResource(const CachingResource&) = delete;
  CachingResource& operator=(const CachingResource&) = delete;

  void* allocate(int64_t bytes) override;
  void deallocate(void* block, int64_t bytes) noexcept override;
  std::string_view level() const override { return "Level-2 cache"; }
  MemoryStats stats() const override { return counters_.stats(); }

  /// Gives segments with nothing handed out back to the upstream.
  void trim() noexcept;
  /// The same, but for one segment of at least `bytes`, which is there from now on, free or not. What is handed out after it
  /// and fits lies at the same places whatever was handed out, and returned, before: a case's memory does not depend on the
  /// cases before it. Without room for the segment there is none.
  void keep(int64_t bytes);
  /// 1 - largest free block / all free bytes: 0 when the free memory is in one piece, or there is none.
  double fragmentation() const;

 private:
  struct Block {
    int64_t bytes = 0;
    char* segment = nullptr;
    bool free = false;
  };
  using Blocks = std::map<char*, Block>;

  Blocks::iterator reserve(int64_t bytes);
  void trim_but(const char* kept) noexcept;
  void release_free(Blocks::iterator block);
  void add_free(Blocks::iterator block);

  MemoryResource& upstream_;
  Blocks blocks_;                             // every block of every segment, by address
  std::set<std::pair<int64_t, char*>> free_;  // by size, then address: best fit is lower_bound
  std::map<char*, int64_t> segments_;
  char* kept_ = nullptr;  // one of segments_
  MemoryCounters counters_;
};

}  // namespace tandem
