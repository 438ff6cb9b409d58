"""SFT, logit distillation and GRPO through TRL."""
