"""The configuration of the planner's recipe. Every number that decides the result is here."""

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
        How many.
    verbosity
        How much an observation tells.
    chunk
        How many of them one worker plays in a row.
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
        What is played.
    corrections
        How many of an episode's corrections become samples, at most. A correction is the episode up to a plan that was not the
        expert's, with the expert's in its place.
    in_place
        Whether the whole episode also teaches the expert's token where a plan first differs from the expert's. So one sequence
        corrects every plan of an episode, but only its first wrong token; a correction corrects one plan in full.
    minutes
        How long to train, in minutes of wall time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[Source, ...]
    corrections: int = Field(default=1, ge=0)
    in_place: bool = False
    minutes: float = Field(default=9, gt=0)


def _level(name: str, chunk: int = 40) -> Source:
    return Source(env_id=LEVELS[name], episodes=40, chunk=chunk)


# The first round shows where the student gets stuck: in long households, before a full box or a locked door. The second and the
# third stay there; the third corrects every plan. The fourth has many such states, in houses where much goes wrong.
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
        What the expert plays, in round 0.
    student_rounds
        The rounds after it (DAgger): the student plays, the expert labels.
    lessons
        Number of lessons, which round 0 is trained on as well.
    noise
        Share of the expert's replans that play a disturbed plan instead.
    student_share
        Share of the replans that the student plays in its rounds.
    corrections
        As in ``Round``, of round 0.
    rehearsal
        Every so many chunks of the expert's, one is trained on again in each of the student's rounds.
    train_minutes
        Minutes of training in round 0, wall time.
    learning_rate, dagger_learning_rate
        Peak learning rates of round 0 and of the student's rounds.
    token_budget
        Largest batch in tokens.
    max_tokens
        Longest sequence in tokens; longer episodes are cut.
    shortest
        Longest sequence at the start of round 0, in tokens.
    vocabulary
        Upper bound of the tokenizer's vocabulary.
    seed
        Seed of weights, order and lessons.
    held_out_episodes
        Held-out episodes per suite to evaluate on.
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
        """The expert's round, which is round 0, then the student's."""
        expert = Round(sources=self.expert_sources, corrections=self.corrections, minutes=self.train_minutes)
        return expert, *self.student_rounds
