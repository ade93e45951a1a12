"""Text worlds of other projects, which run on Java: TextWorld-Express and ScienceWorld. They need the extra ``worlds``."""
