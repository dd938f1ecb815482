"""The measures of temporal action detection, as the field's own evaluation code computes them."""
