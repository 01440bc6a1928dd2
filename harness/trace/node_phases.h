// Which phase a graph node belongs to: noted when the node is captured, passed on when the graph is instantiated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace tandem {

class NodePhases {
 public:
  /// A node came to be while `phase` was being enqueued. `device_work`: a kernel, copy or memset.
  void created(uint64_t node, uint32_t phase, bool device_work) { nodes_[node] = {phase, 0, device_work}; }
  /// From here to the next call, cloned nodes are those of one executable graph.
  void begin_graph() { graph_sizes_.push_back(0); }
  void cloned(uint64_t original, uint64_t node, bool device_work) {
    if (graph_sizes_.empty()) begin_graph();
    const auto found = nodes_.find(original);
    nodes_[node] = {found == nodes_.end() ? 0 : found->second.phase, graph_sizes_.size(), device_work};
    if (device_work) ++graph_sizes_.back();
  }
  /// 0: none was noted.
  uint32_t phase(uint64_t node) const {
    const auto found = nodes_.find(node);
    return found == nodes_.end() ? 0 : found->second.phase;
  }
  /// Kernels, copies and memsets of the node's executable graph; 0: not known.
  uint32_t graph_nodes(uint64_t node) const {
    const auto found = nodes_.find(node);
    if (found == nodes_.end() || found->second.graph == 0) return 0;
    return graph_sizes_[found->second.graph - 1];
  }
  size_t size() const { return nodes_.size(); }

 private:
  struct Node {
    uint32_t phase = 0;
    size_t graph = 0;  // place in graph_sizes_ from 1; 0: only captured
    bool device_work = false;
  };
  std::unordered_map<uint64_t, Node> nodes_;
  std::vector<uint32_t> graph_sizes_;
};

}  // namespace tandem
