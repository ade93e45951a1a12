"""Episodes while they are played: each plan is shown as it is made, and what happened so far is on disk."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from agents.job import EpisodeJob
from agents.loop import run_episode
from agents.protocols import AgentConfig, FrameSink, Sink
from agents.records import EpisodeRecord, PlannerCall, Record
from planner import PlannerBackend

UNFINISHED = "unfinished-*.jsonl"
"""Files of episodes that were not finished."""
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class LiveEpisode:
    """A player of episodes (``EpisodeFunction``) that writes and shows the records on the way. It can be pickled.

    Each episode under way has a file of its own in the run directory, which grows record by record and is removed when the episode
    is over. So an interrupted or killed episode leaves it; playing the episode again begins it anew.

    Attributes
    ----------
    folder
        The run directory; ``None`` where it is not on the machine that plays.
    show
        Whether to log each line of a plan as soon as the plan is made.
    """

    folder: Path | None
    show: bool = False

    def __call__(
        self, job: EpisodeJob, backend: PlannerBackend, config: AgentConfig, sink: Sink, frames: FrameSink | None = None
    ) -> EpisodeRecord:
        """Play one episode."""
        file = None if self.folder is None else UnfinishedFile.of(self.folder, job)

        def take(record: Record) -> None:
            sink(record)
            if file is not None:
                file.write(record)
            if self.show and isinstance(record, PlannerCall):
                show_plan(record)

        episode = run_episode(job, backend, config, take, frames)
        if file is not None:
            file.remove()
        return episode


@dataclass
class UnfinishedFile:
    """The records of an episode under way, one JSON line each.

    A file that cannot be written is given up, with a warning: the episode goes on, and its records are written when it is over.
    """

    path: Path
    """The file."""
    usable: bool = True
    """Whether it could be written so far."""
    begun: bool = False
    """Whether this episode has written to it; what an earlier attempt left is replaced."""

    @classmethod
    def of(cls, folder: Path, job: EpisodeJob) -> "UnfinishedFile":
        """Name the file of an episode by its environment and seed; several backends play the same episode."""
        digest = sha256(json.dumps(job.key).encode()).hexdigest()[:8]
        env = "".join(character if character.isalnum() or character in ".-" else "-" for character in job.env_id)
        return cls(folder / f"unfinished-{env}-{job.seed}-{digest}.jsonl")

    def write(self, record: Record) -> None:
        """Append a record."""
        if not self.usable:
            return
        try:
            with self.path.open("ab" if self.begun else "wb") as file:
                file.write(f"{record.model_dump_json()}\n".encode())
            self.begun = True
        except OSError as error:
            self._give_up(error)

    def remove(self) -> None:
        """Remove the file: the episode is over."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.usable = False
        log.warning("the episode under way is not on disk until it is over", file=str(self.path), problem=str(error))


def show_plan(call: PlannerCall) -> None:
    """Log one event per line of a plan, or one that says why it could not be read."""
    about = {
        "backend": call.backend,
        "seed": call.seed,
        "replan": call.replan,
        "reason": call.reason,
        "seconds": round(call.replan_s, 3),
    }
    if call.generation.format != "free":
        about["format"] = call.generation.format
    for line in call.plan or ():
        log.info(line, **about)
    if call.plan is None:
        log.info("no plan", **about, problem=call.parse_error)
