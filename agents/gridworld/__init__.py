"""The family of gridworlds: belief, navigation, skills, expert."""
