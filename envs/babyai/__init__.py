"""BabyAI and MiniGrid levels of the minigrid package."""
