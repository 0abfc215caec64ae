"""Where the trail meets the frameworks, queues and threads that programs are made of."""
