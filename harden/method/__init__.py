"""The paper: critic step, E-step, robust M-step, their mathematics, and PPO for the rivals."""
