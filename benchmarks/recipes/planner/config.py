"""The configuration of the planner's recipe: all numbers that affect the result."""

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.recipes.seeds import MAX_ROUNDS
from envs import LEVELS, Verbosity


class Source(BaseModel):
    """Episodes of one environment.

    Attributes
    ----------
    env_id
        The environment's gymnasium id.
    episodes
        Number of episodes.
    verbosity
        Length of the observation text.
    chunk
        Number of episodes that a worker plays in a row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    episodes: int = Field(ge=0)
    verbosity: Verbosity = "terse"
    chunk: int = Field(default=40, ge=1)


def _levels(episodes: int) -> tuple[Source, ...]:
    return tuple(Source(env_id=env_id, episodes=episodes) for env_id in LEVELS.values())


EXPERT_SOURCES = (
    Source(env_id="ERecap/HouseholdSmall-v0", episodes=1600),
    Source(env_id="ERecap/HouseholdSmall-v0", episodes=280, verbosity="verbose"),
    Source(env_id="ERecap/Household-v0", episodes=400),
    Source(env_id="ERecap/HouseholdRecall-v0", episodes=1600),
    Source(env_id="ERecap/HouseholdLong-v0", episodes=160),
    Source(env_id="ERecap/HouseholdLong-v0", episodes=400, verbosity="verbose"),
    *_levels(400),
)


class Round(BaseModel):
    """One round of playing and training.

    Attributes
    ----------
    sources
        Episodes to play.
    corrections
        Largest number of samples made of an episode's corrections. A correction is the episode up to a plan that differs from the
        expert's, with the expert's plan in its place.
    in_place
        Whether the sample of the whole episode also trains the expert's token at the first difference of each plan. Then one
        sequence corrects the first wrong token of all plans; a correction corrects one plan in full.
    minutes
        Length of the training, in minutes of wall time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[Source, ...]
    corrections: int = Field(default=1, ge=0)
    in_place: bool = False
    minutes: float = Field(default=9, gt=0)


def _level(name: str, chunk: int = 40) -> Source:
    return Source(env_id=LEVELS[name], episodes=40, chunk=chunk)


# The first round shows where the student gets stuck: in long households, at a full box or a locked door. The second and the third
# play these again; the third corrects every plan. The fourth has many such states, in houses with many disturbances.
STUDENT_ROUNDS = (
    Round(
        sources=(
            Source(env_id="ERecap/HouseholdSmall-v0", episodes=160),
            Source(env_id="ERecap/HouseholdRecall-v0", episodes=160),
            Source(env_id="ERecap/HouseholdLong-v0", episodes=16, verbosity="verbose", chunk=8),
            Source(env_id="ERecap/HouseholdLong-v0", episodes=32, chunk=8),
            Source(env_id="ERecap/Household-v0", episodes=80, chunk=20),
            *(_level(name) for name in ("Open", "PutNext", "GoToSeq", "BossLevel", "KeyCorridor")),
        ),
    ),
    Round(
        sources=(
            Source(env_id="ERecap/HouseholdLong-v0", episodes=16, verbosity="verbose", chunk=4),
            Source(env_id="ERecap/HouseholdLong-v0", episodes=32, chunk=8),
            Source(env_id="ERecap/Household-v0", episodes=40, chunk=10),
            _level("BossLevel", chunk=10),
        ),
        corrections=8,
    ),
    Round(
        sources=(
            Source(env_id="ERecap/HouseholdLong-v0", episodes=24, verbosity="verbose", chunk=4),
            Source(env_id="ERecap/HouseholdLong-v0", episodes=64, chunk=4),
            Source(env_id="ERecap/Household-v0", episodes=40, chunk=10),
            _level("BossLevel", chunk=10),
        ),
        corrections=2,
        in_place=True,
        minutes=12,
    ),
    Round(
        sources=(
            Source(env_id="ERecap/HouseholdTroubled-v0", episodes=160, chunk=20),
            Source(env_id="ERecap/HouseholdTroubled-v0", episodes=12, verbosity="verbose", chunk=12),
        ),
        in_place=True,
        minutes=16,
    ),
)


class Recipe(BaseModel):
    """The bundled planner's recipe.

    Attributes
    ----------
    expert_sources
        Episodes that the expert plays in round 0.
    student_rounds
        The later rounds (DAgger), in which the student plays and the expert labels.
    lessons
        Number of lessons in the training data of round 0.
    noise
        Share of the expert's replans in which a disturbed plan is played instead, 0..1.
    student_share
        Share of the replans in which the student's plan is played in its rounds, 0..1.
    corrections
        ``Round.corrections`` of round 0.
    rehearsal
        One of this many expert chunks is trained on again in each student round.
    train_minutes
        Length of the training in round 0, in minutes of wall time.
    learning_rate, dagger_learning_rate
        Peak learning rates of round 0 and of the student's rounds.
    token_budget
        Largest batch in tokens.
    max_tokens
        Longest sequence in tokens; longer episodes are cut.
    shortest
        Longest sequence allowed at the start of round 0, in tokens; the limit grows to ``max_tokens``.
    vocabulary
        Upper bound of the tokenizer's vocabulary.
    seed
        Seed of weights, data order and lessons.
    held_out_episodes
        Number of held-out episodes per suite in the evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expert_sources: tuple[Source, ...] = EXPERT_SOURCES
    student_rounds: tuple[Round, ...] = Field(STUDENT_ROUNDS, max_length=MAX_ROUNDS - 1)
    lessons: int = Field(5000, ge=0)
    noise: float = Field(0.08, ge=0, le=1)
    student_share: float = Field(0.9, ge=0, le=1)
    corrections: int = Field(default=1, ge=0)
    rehearsal: int = Field(8, ge=1)
    train_minutes: float = Field(50, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    dagger_learning_rate: float = Field(5e-4, gt=0)
    token_budget: int = Field(2048, ge=256)
    max_tokens: int = Field(6144, ge=512)
    shortest: int = Field(700, ge=128)
    vocabulary: int = Field(2048, ge=300)
    seed: int = Field(0, ge=0)
    held_out_episodes: int = Field(40, ge=0)

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds: the expert's, which is round 0, then the student's."""
        expert = Round(sources=self.expert_sources, corrections=self.corrections, minutes=self.train_minutes)
        return expert, *self.student_rounds
