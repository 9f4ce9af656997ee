"""Learning from what people prefer: losses, preference data, reward models, and the stage `align`."""
