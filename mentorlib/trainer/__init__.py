"""SFT, logit distillation and GRPO through TRL: how a rollout becomes a loss starts in grpo.py."""
