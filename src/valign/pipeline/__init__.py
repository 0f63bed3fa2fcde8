"""Recipe -> run -> report. The rooms below are put together here; whatever is computed, they compute."""
