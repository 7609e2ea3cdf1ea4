"""The paper's tables and figures, with whatever model is given: `tradeoff`, `ablation`, `compare`."""
