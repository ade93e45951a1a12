"""Small timings on random tokens: prefill, what pruning itself costs, and the cost model's measurements."""
