"""Recipe -> run -> report. Here the rooms below are put together; nothing is computed that they do not
compute.
"""
