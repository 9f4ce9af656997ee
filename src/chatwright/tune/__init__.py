"""Making a model somebody's own: few trained parameters on a frozen base, gain and forgetting reported together."""
