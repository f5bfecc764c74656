"""The only place of torch: jobs as rows (tasks), as files (pipeline) and as tensors (unlearning)."""
