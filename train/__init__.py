"""Training: configuration and recipes, the step, distillation methods, checkpoints, logs."""
