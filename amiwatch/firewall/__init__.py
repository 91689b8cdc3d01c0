"""The edge to the kernel: sets that hold the banned networks, and the rule that drops them."""
