"""Pictures of one episode under way, given to a sink one by one."""

from dataclasses import dataclass

from agents.protocols import FrameSink, Moment, MomentSink
from agents.world import Progress, Scene, SceneWorld, World


@dataclass
class Pictures:
    """Draws one world for a sink; does nothing without one."""

    world: World
    """The world to draw."""
    frames: FrameSink | None
    """Called with each picture."""

    def show(self, caption: str, moment: Moment) -> None:
        """Draw the world as it is now, with the current line of the plan below it."""
        frame = self.world.frame() if self.frames is not None else None
        if self.frames is not None and frame is not None:
            self.tell(moment)
            self.frames(frame, caption)

    def tell(self, moment: Moment) -> None:
        """Tell a ``MomentSink`` where the episode stands."""
        frames: object = self.frames
        if isinstance(frames, MomentSink):
            frames.see(moment)

    def moment(self, env_step: int, progress: Progress, line: str, rest: tuple[str, ...], events: tuple[str, ...] = ()) -> Moment:
        """Describe where the episode stands."""
        frames: object = self.frames
        world: object = self.world
        scene = world.scene() if isinstance(frames, MomentSink) and isinstance(world, SceneWorld) else Scene()
        return Moment(env_step, self.world.max_steps, progress, line, rest, events, scene)
