"""The loop: rounds in which a run's model learns from new feedback, is tested against the one in service, and takes
its place if it wins. Not for the learning itself (`tune`) or for what people see (`serve`).
"""
