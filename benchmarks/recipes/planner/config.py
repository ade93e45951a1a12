"""The configuration of the planner's recipe: all numbers that affect the result."""

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.recipes.seeds import MAX_ROUNDS, SEEDS_PER_ROUND
from envs import LEVELS, Verbosity
from planner import Horizon


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
    horizon
        How far a plan reaches.
    chunk
        Number of episodes that a worker plays in a row.
    max_replans
        Number of replans after which an episode ends.
    noise
        Share of the expert's replans in which a disturbed plan is played instead, 0..1; ``None`` for the round's: the
        recipe's in round 0, none in student rounds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    env_id: str
    episodes: int = Field(ge=0)
    verbosity: Verbosity = "terse"
    horizon: Horizon = "subgoal"
    chunk: int = Field(default=40, ge=1)
    max_replans: int = Field(default=40, ge=1)
    noise: float | None = Field(default=None, ge=0, le=1)


def _house(name: str, episodes: int, verbosity: Verbosity = "terse", horizon: Horizon = "subgoal", chunk: int = 40) -> Source:
    return Source(env_id=f"ERecap/{name}-v0", episodes=episodes, verbosity=verbosity, horizon=horizon, chunk=chunk)


def _level(name: str, episodes: int = 40, horizon: Horizon = "subgoal", chunk: int = 40) -> Source:
    return Source(env_id=LEVELS[name], episodes=episodes, horizon=horizon, chunk=chunk)


# In most episodes the expert is nearly always right, so its plan before names the right places. In these a learner's mistakes stand
# in the context, as they will in the student's own episodes.
_OFTEN_WRONG = (
    _house("HouseholdSmall", 120, horizon="task"),
    _house("Household", 80),
    _house("HouseholdTroubled", 80, horizon="task"),
    _house("HouseholdLong", 80, "verbose", "task", 20),
    _house("HouseholdReplan", 160, "terse", "task", 20),
    _house("HouseholdReplan", 240, "verbose", "task", 20),
)
EXPERT_SOURCES = (
    _house("HouseholdSmall", 1000),
    _house("HouseholdSmall", 120, "verbose"),
    _house("HouseholdSmall", 520, horizon="task"),
    _house("HouseholdSmall", 120, "verbose", "task"),
    _house("Household", 200),
    _house("Household", 160, horizon="task"),
    _house("HouseholdRecall", 640),
    _house("HouseholdRecall", 240, horizon="task"),
    _house("HouseholdTroubled", 160, horizon="task"),
    _house("HouseholdLong", 80),
    _house("HouseholdLong", 140, "verbose", chunk=20),
    _house("HouseholdLong", 80, "terse", "task"),
    _house("HouseholdLong", 120, "verbose", "task", 20),
    _house("HouseholdReplan", 240, "terse", "task", 20),
    _house("HouseholdReplan", 280, "verbose", "task", 20),
    *(_level(name, 200) for name in LEVELS),
    *(_level(name, 120, "task") for name in LEVELS),
    *(source.model_copy(update={"noise": 0.4}) for source in _OFTEN_WRONG),
)


class Lessons(BaseModel):
    """Numbers of lessons, synthetic episodes about one thing each.

    Attributes
    ----------
    plain
        Things are asked for that were seen some turns ago.
    locked
        Things lie behind locked doors.
    troubled
        The hand holds something else than was planned, and things stand in the way.
    misplanned
        A third of the plans were wrong, and the right ones stand beside them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    plain: int = Field(default=0, ge=0)
    locked: int = Field(default=0, ge=0)
    troubled: int = Field(default=0, ge=0)
    misplanned: int = Field(default=0, ge=0)


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
        Whether the sample of the whole episode also teaches the expert's plan beside each that differs from it, in a branch that
        sees the episode up to there. Then one sequence corrects all plans; a correction is a sequence for one plan.
    other_weight
        Weight of the tokens outside plans in the loss, where a plan's have 1. At first all text teaches the model to look things
        up; later most of it is noise, since nobody can foresee what the agent will see.
    lessons
        Lessons in the training data.
    recent_rounds
        Student rounds whose episodes are trained on in full: this one and those just before.
    rehearsal
        Of the rounds before them, the expert's among these, one of this many chunks is trained on again.
    minutes
        Length of the training, in minutes of wall time.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[Source, ...]
    corrections: int = Field(default=0, ge=0)
    in_place: bool = True
    other_weight: float = Field(default=0.3, gt=0, lt=1)
    lessons: Lessons = Lessons()
    recent_rounds: int = Field(default=2, ge=1)
    rehearsal: int = Field(default=4, ge=1)
    minutes: float = Field(default=9, gt=0)


# The first rounds show where the student gets stuck: in long households, at a full box or a locked door, and with plans for the
# whole task. The later ones play these again. The third has many such states. The last plays what was still lost after it: whole
# tasks whose houses change.
_HARD = ("Open", "PutNext", "GoToSeq", "BossLevel", "KeyCorridor")
_SOME_LESSONS = Lessons(plain=300, locked=300, troubled=600, misplanned=1000)
_WHOLE_TASKS = Round(
    sources=(
        _house("HouseholdReplan", 48, "verbose", "task", 2),
        _house("HouseholdReplan", 48, "terse", "task", 2),
        _house("HouseholdLong", 8, "verbose", chunk=2),
        _house("HouseholdLong", 24, "verbose", "task", 2),
        _house("HouseholdSmall", 40, horizon="task", chunk=8),
        _house("HouseholdTroubled", 40, horizon="task", chunk=8),
        _level("BossLevel", 20, chunk=10),
    ),
    other_weight=0.05,
    lessons=_SOME_LESSONS,
    minutes=25,
)
STUDENT_ROUNDS = (
    Round(
        sources=(
            _house("HouseholdSmall", 80, chunk=10),
            _house("HouseholdSmall", 80, horizon="task", chunk=10),
            _house("HouseholdRecall", 80, chunk=8),
            _house("HouseholdRecall", 40, horizon="task", chunk=4),
            _house("HouseholdLong", 16, "verbose", chunk=2),
            _house("HouseholdLong", 16, "verbose", "task", 2),
            _house("HouseholdReplan", 32, "verbose", "task", 2),
            _house("Household", 40, chunk=8),
            *(_level(name, chunk=10) for name in _HARD),
            *(_level(name, 20, "task", 10) for name in _HARD),
        ),
        other_weight=0.05,
        lessons=_SOME_LESSONS,
        minutes=10,
    ),
    Round(
        sources=(
            _house("HouseholdLong", 16, "verbose", chunk=2),
            _house("HouseholdLong", 16, "verbose", "task", 2),
            _house("HouseholdReplan", 48, "verbose", "task", 2),
            _house("HouseholdReplan", 24, "terse", "task", 2),
            _house("Household", 40, chunk=8),
            _level("BossLevel", 40, chunk=10),
        ),
        other_weight=0.05,
        lessons=_SOME_LESSONS,
        minutes=13,
    ),
    Round(
        sources=(
            _house("HouseholdLong", 24, "verbose", chunk=2),
            _house("HouseholdLong", 24, "verbose", "task", 2),
            _house("HouseholdReplan", 48, "verbose", "task", 2),
            _house("HouseholdTroubled", 80, chunk=8),
            _house("HouseholdTroubled", 40, horizon="task", chunk=8),
            _level("BossLevel", 40, chunk=10),
        ),
        other_weight=0.05,
        lessons=_SOME_LESSONS,
        minutes=30,
    ),
    _WHOLE_TASKS,
)


SUITES = ("household-small", "babyai", "household-recall", "household-long", "household-replan")
"""Suites that the bundled planner is evaluated on."""


class Recipe(BaseModel):
    """A planner's recipe; by default one for two cores.

    Attributes
    ----------
    name
        Directory that ``--install`` writes among the bundled models. ``planner`` is the one that backends take by default.
    suites
        Suites that the result is evaluated on.
    start_from
        Directory of a planner whose weights and tokenizer round 0 goes on from, or ``bundled`` for the bundled one of this name;
        ``None`` begins with random weights.
    skip_seeds
        Seeds of each source that are left out, from its first: those that the planner to go on from was trained on.
    expert_sources
        Episodes that the expert plays in round 0.
    expert_factor
        Factor on the number of these episodes, as far as a source has seeds.
    student_rounds
        The later rounds (DAgger), in which the student plays and the expert labels.
    lessons
        Lessons in the training data of round 0.
    noise
        Share of the expert's replans in which a disturbed plan is played instead, 0..1, where a source does not say. Only
        gridworlds have such plans.
    stubbornness
        Probability that a disturbed plan that changed nothing is played again, 0..1.
    student_share
        Share of the replans in which the student's plan is played in its rounds, 0..1.
    corrections, other_weight
        ``Round.corrections`` and ``Round.other_weight`` of round 0.
    train_minutes
        Length of the training in round 0, in minutes of wall time.
    student_minutes
        Length of the training in each student round instead of the round's own, in minutes of wall time.
    play_minutes
        Most minutes that a student round plays; ``None`` plays all episodes. Chunks unfinished by then are left out.
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

    name: str = Field("planner", pattern=r"^planner(-[a-z0-9]+)?$")
    suites: tuple[str, ...] = SUITES
    start_from: str | None = None
    skip_seeds: int = Field(0, ge=0)
    expert_sources: tuple[Source, ...] = EXPERT_SOURCES
    expert_factor: int = Field(1, ge=1)
    student_rounds: tuple[Round, ...] = Field(STUDENT_ROUNDS, max_length=MAX_ROUNDS - 1)
    lessons: Lessons = Lessons(plain=5000, locked=4000, troubled=3000, misplanned=2000)
    noise: float = Field(0.08, ge=0, le=1)
    stubbornness: float = Field(0.6, ge=0, le=1)
    student_share: float = Field(0.9, ge=0, le=1)
    corrections: int = Field(default=0, ge=0)
    other_weight: float = Field(default=0.3, gt=0, lt=1)
    train_minutes: float = Field(50, gt=0)
    student_minutes: float | None = Field(None, gt=0)
    play_minutes: float | None = Field(7, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    dagger_learning_rate: float = Field(8e-4, gt=0)
    token_budget: int = Field(2048, ge=256)
    max_tokens: int = Field(8192, ge=512)
    shortest: int = Field(700, ge=128)
    vocabulary: int = Field(2048, ge=300)
    seed: int = Field(0, ge=0)
    held_out_episodes: int = Field(40, ge=0)

    @property
    def rounds(self) -> tuple[Round, ...]:
        """All rounds: the expert's, which is round 0, then the student's."""
        expert = Round(
            sources=self._expert_sources(),
            corrections=self.corrections,
            other_weight=self.other_weight,
            lessons=self.lessons,
            minutes=self.train_minutes,
        )
        minutes = {} if self.student_minutes is None else {"minutes": self.student_minutes}
        return expert, *(round_.model_copy(update=minutes) for round_ in self.student_rounds)

    def _expert_sources(self) -> tuple[Source, ...]:
        seeds = SEEDS_PER_ROUND // max(len(self.expert_sources), 1)
        return tuple(_more(source, self.expert_factor, seeds) for source in self.expert_sources)


def _more(source: Source, factor: int, seeds: int) -> Source:
    """Multiply the episodes of a source. Where its seeds end, whole chunks stay."""
    most = max(source.episodes, seeds - seeds % source.chunk)
    return source.model_copy(update={"episodes": min(factor * source.episodes, most)})
