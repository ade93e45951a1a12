"""Text worlds of other projects: TextWorld-Express and ScienceWorld, simulators that run on Java. They need the extra ``worlds``."""
