#include "harness/trace/node_phases.h"

#include <gtest/gtest.h>

namespace tandem {
namespace {

// Breaks when a node of an executable graph loses the phase that its original was captured in.
TEST(NodePhases, ClonesKeepTheirPhase) {
  NodePhases nodes;
  nodes.created(1, 7, true);
  nodes.created(2, 0, true);
  nodes.begin_graph();
  nodes.cloned(1, 101, true);
  nodes.cloned(2, 102, true);
  EXPECT_EQ(nodes.phase(101), 7u);
  EXPECT_EQ(nodes.phase(102), 0u);
  EXPECT_EQ(nodes.phase(999), 0u);
}

// Breaks when two graphs share a size, or nodes that leave no record are promised as records.
TEST(NodePhases, GraphsAreSizedByTheirDeviceWork) {
  NodePhases nodes;
  for (uint64_t n = 1; n <= 3; ++n) nodes.created(n, 1, n != 3);
  nodes.begin_graph();
  for (uint64_t n = 1; n <= 3; ++n) nodes.cloned(n, 100 + n, n != 3);
  nodes.begin_graph();
  nodes.cloned(1, 201, true);
  EXPECT_EQ(nodes.graph_nodes(101), 2u);
  EXPECT_EQ(nodes.graph_nodes(102), 2u);
  EXPECT_EQ(nodes.graph_nodes(201), 1u);
  EXPECT_EQ(nodes.graph_nodes(1), 0u);
}

// Breaks when a graph of graphs (its inner nodes cloned twice) loses phases.
TEST(NodePhases, AClonesCloneKeepsItsPhase) {
  NodePhases nodes;
  nodes.created(1, 9, true);
  nodes.begin_graph();
  nodes.cloned(1, 11, true);
  nodes.begin_graph();
  nodes.cloned(11, 21, true);
  EXPECT_EQ(nodes.phase(21), 9u);
}

}  // namespace
}  // namespace tandem
