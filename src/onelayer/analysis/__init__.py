"""Analysis of a model: its answers on a split, the reasons for an answer, and the check of its gradients."""
