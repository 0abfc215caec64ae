"""The tests, which run in any order, beside each other, on machines that stand still for seconds.

What that asks of each of them:

- What has to come is waited for (`waiting.wait_for`) instead of slept for. What must not be waited
  for hangs for 1,000 seconds: then a bound need not be one of seconds.
- Where the product looks at a clock, the clock is the test's, or steps and rounds are counted.
- A port is held from the moment it is chosen (`ports.free_port`).
- Descriptors, memory, garbage and output are those of a process: they are looked at in a process of
  its own, since others' threads come and go in this one. Of the log, only what this thread has said
  counts (the fixture `said`), and faults are put into its system calls alone.
"""
