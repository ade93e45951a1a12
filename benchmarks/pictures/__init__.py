"""Pictures of an episode: the map with its rooms beside a panel with task, plan and costs."""
