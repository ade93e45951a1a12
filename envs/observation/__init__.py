"""What every environment shows the agent, and how it is put into words."""
