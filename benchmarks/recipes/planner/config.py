"""What the recipe is made of. Every number that decides the result stands here."""

from pydantic import BaseModel, ConfigDict, Field

from envs import LEVELS, Verbosity


class Source(BaseModel):
    """So many episodes of one environment, ``chunk`` of which one worker plays in a row."""

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
    """What is played, how many of the expert's other plans per episode become samples of their own, for how long is trained.

    ``in_place``: where the student's plan parts from the expert's, its whole episode teaches the expert's token at that place. One
    sequence so corrects every plan of an episode, where a sample of its own corrects one; but only the plan's first wrong token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[Source, ...]
    corrections: int = Field(default=1, ge=0)
    in_place: bool = False
    minutes: float = Field(default=9, gt=0)


def _level(name: str, chunk: int = 40) -> Source:
    return Source(env_id=LEVELS[name], episodes=40, chunk=chunk)


# The first round shows where the student is caught: in long households, before a full box or a locked door. The second stays there,
# and so does the third, which corrects every plan. The fourth brings such states by the dozen, in houses where much goes wrong.
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
    """The bundled planner's recipe. Minutes are wall time on the machine that trains.

    ``noise``: share of the expert's replans that play a disturbed plan instead; ``corrections``: how many plans per episode that
    the expert would have made otherwise become samples of their own. In DAgger rounds the student plays ``student_share`` of the
    replans, and every ``rehearsal``-th chunk of the expert's episodes is trained on again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    expert_sources: tuple[Source, ...] = EXPERT_SOURCES
    student_rounds: tuple[Round, ...] = Field(STUDENT_ROUNDS, max_length=9)
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
        """The expert's round, which is round 0, then the student's (DAgger)."""
        expert = Round(sources=self.expert_sources, corrections=self.corrections, minutes=self.train_minutes)
        return expert, *self.student_rounds
