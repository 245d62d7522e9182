"""The paper's claim about equal updates, tested with the time there is."""
