"""Pure functions of arrays, and the exact accumulators around them."""
