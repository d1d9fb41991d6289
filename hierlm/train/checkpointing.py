"""Between the loop and the checkpoint room: what is saved, and where a run goes on.

A save beside training (`checkpoint.asynchronous`) holds training up while the state is copied; a thread of every rank
then runs the same commit. Its outcome is taken at the next save or when it is there, whichever comes first: what all
ranks must do alike is decided only after `wait`.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter, time

from data_pipeline.read.cursor import Cursor
from data_pipeline.read.loader import TrainRows
from hierlm.checkpoint.commit import Saved, SaveError, Write, save_checkpoint
from hierlm.checkpoint.find import CheckpointRef, newest_good
from hierlm.checkpoint.leftovers import take_over
from hierlm.checkpoint.manifest import Facts, Layout, Why
from hierlm.checkpoint.recurrent import MEMORY, read_recurrent_states, write_recurrent_state
from hierlm.checkpoint.retention import EMERGENCIES
from hierlm.checkpoint.team import Team, TeamError
from hierlm.checkpoint.tensor_file import content_that_fits
from hierlm.checkpoint.universal import universal_of
from hierlm.config.load import plain_config
from hierlm.config.same_run import changes_since
from hierlm.config.structure import fingerprint
from hierlm.durable import FileRecord, FileWriter
from hierlm.errors import LostRunError, UserError
from hierlm.lease import Lease
from hierlm.optim.state_names import StateNames
from hierlm.parallel.config import ParallelConfig
from hierlm.parallel.degrees import Degrees
from hierlm.parallel.engine import Engine
from hierlm.parallel.memory_lanes import LaneState
from hierlm.parallel.messages import team_of
from hierlm.parallel.saving import writers_group
from hierlm.parallel.skipped_steps import Skipped
from hierlm.run_dir import RunDir
from hierlm.train.background_save import SECONDS_AFTER_A_FAILURE, BackgroundSave
from hierlm.train.course import Course
from hierlm.train.proof import Proof, difference, proof_of

PROGRESS_SECONDS = 10.0


class Checkpointer:
    """Saves and resumes one run on all ranks together."""

    def __init__(
        self,
        run_dir: RunDir,
        course: Course,
        *,
        rows: TrainRows,
        engine: Engine,
        lease: Lease,
    ) -> None:
        self._run_dir, self._config, self._timeline = run_dir, course.config, course.timeline
        self._rows, self._splits = rows, rows.splits
        self._engine, self._lease, self._recorder, self._console = engine, lease, course.recorder, course.console
        self._team = team_of()
        # who commits a save beside training
        self._writers = team_of(writers_group()) if course.config.checkpoint.asynchronous else self._team
        self._in_flight: BackgroundSave | None = None
        self.last_saved_step = 0
        self.unproven: str | None = None
        """How what was loaded differs from what was saved, where `checkpoint.unproven` accepts that."""
        self.slowest_save_seconds = 0.0

    def resume(self) -> int:
        """Load the newest good checkpoint, if any; the number of steps it holds.

        UserError if the config has become that of another run, DataError if the data changed.
        """
        self._team.first_only(lambda: take_over(self._run_dir.checkpoints, lease=self._lease))
        found = newest_good(self._run_dir.checkpoints, report=self._console.say, team=self._team)
        if found is None:
            return 0
        started = perf_counter()
        self._require_same_run(found)
        if found.manifest.cursor is not None:
            self._rows.deal_by(found.manifest.cursor.dealing)
        self._load(found)
        self._engine.skipped = Skipped(found.manifest.skipped_steps, found.manifest.skipped_in_a_row)
        self.last_saved_step, self.slowest_save_seconds = found.step, found.manifest.save_seconds
        self._console.say(f"resumed from {found.path} (step {found.step}, {perf_counter() - started:.1f} s)")
        return found.step

    def _require_same_run(self, found: CheckpointRef) -> None:
        manifest, config_file = found.manifest, self._run_dir.config
        if (asked := StateNames.of(self._config.optim.name)) != manifest.optimizer:
            raise UserError(
                f"{config_file}: optim.name: {found.path} holds the state of {manifest.optimizer}, not of {asked}: "
                "undo the change, or start another name=NAME"
            )
        cursor = manifest.cursor
        changes = changes_since(
            manifest.config,
            saved_fingerprint=manifest.config_fingerprint,
            saved_seed=None if cursor is None else cursor.seed,
            config=self._config,
        )
        if changes:
            mend = f"{config_file}: was edited since {found.path} was made: undo it, or start another name=NAME"
            raise UserError([*(f"{config_file}: {change}" for change in changes), mend])
        if cursor is not None:
            here = self._cursor(found.step)
            cursor.require_same_data(here.fingerprints, paths=[str(split.directory) for split in self._splits])

    def save(self, step: int, *, why: Why) -> None:
        """Commit the state after `step` steps, unless it is saved already.

        A failed save is said and the run goes on, unless it was the last. LostRunError for what no attempt could go on
        from.
        """
        started = perf_counter()
        self.wait()
        if step == self.last_saved_step:  # one that failed is tried again when there is reason to
            return
        facts = self._facts(step, why=why)
        if self._config.checkpoint.asynchronous and why not in EMERGENCIES:
            self._save_beside(facts, started=started)
            return
        saved = self._outcome(lambda: self._commit(facts, partial(self._write, step=step), self._team), why=why)
        if saved is not None:
            self._take(saved, step=step, why=why, seconds=perf_counter() - started)
            self._record(step, save_seconds=saved.seconds, save_blocking_seconds=perf_counter() - started)

    def require_saved(self, step: int) -> None:
        """Where an attempt ends with a phase: one more try if its save has failed. LostRunError if that fails too."""
        self.save(step, why="phase_boundary")
        self.wait()
        if self.last_saved_step != step:
            raise LostRunError(
                f"the state after step {step} could not be saved (see the warning above): the next job would go on "
                f"from step {self.last_saved_step}; make room in {self._run_dir.checkpoints} and run this one again"
            )

    def poll(self) -> None:
        """Take the outcome of a save beside training, if it is there; ranks may differ in when that is."""
        if self._in_flight is not None and self._in_flight.is_done and not self._in_flight.is_taken_over:
            self._land()  # of a takeover all ranks learn together: StopRequest.agreed, or `wait`

    def wait(self) -> None:
        """Until no save is in flight; every rank calls it. TakenOverError when another attempt has ended it."""
        if self._in_flight is not None:
            if not self._in_flight.is_done:
                self._console.say(f"waiting for the checkpoint of step {self._in_flight.step}, which is being written")
            self._land()

    def wait_after_failure(self) -> None:
        """Let a save in flight come to its end, if it can."""
        if self._in_flight is not None:
            self._in_flight.give_time(SECONDS_AFTER_A_FAILURE)
            with suppress(Exception):
                self.poll()

    def _save_beside(self, facts: Facts, *, started: float) -> None:
        held: list[Write] = []
        try:
            self._team.together(lambda: held.append(self._hold(facts.step)))
        except TeamError as failure:
            self._console.say(f"warning: the checkpoint of step {facts.step} was not saved ({failure})")
            return
        save = partial(self._commit, facts, held[0], self._writers)
        took = perf_counter() - started
        self._in_flight = BackgroundSave(save, step=facts.step, why=facts.why, blocking_seconds=took)
        self._record(facts.step, save_blocking_seconds=took)

    def _land(self) -> None:
        save = self._in_flight
        assert save is not None
        self._in_flight = None
        saved = self._outcome(save.result, why=save.why)
        if saved is not None:
            self._take(saved, step=save.step, why=save.why, seconds=save.blocking_seconds)

    def _commit(self, facts: Facts, write: Write, team: Team) -> Saved:
        settings = self._config.checkpoint
        return save_checkpoint(
            self._run_dir.checkpoints,
            facts=facts,
            write=write,
            team=team,
            keep=settings.keep,
            keep_every=settings.keep_every.steps if settings.keep_every else None,
            lease=self._lease,
        )

    def _outcome(self, save: Callable[[], Saved], *, why: Why) -> Saved | None:
        try:
            return save()
        except SaveError as error:
            if why in EMERGENCIES:
                raise
            self._console.say(f"warning: {error}")
            return None

    def _take(self, saved: Saved, *, step: int, why: Why, seconds: float) -> None:
        """`seconds` is how long training was held up."""
        self.last_saved_step = step
        self.slowest_save_seconds = max(self.slowest_save_seconds, saved.seconds)
        size, took = saved.size_bytes / 2**20, f"{saved.seconds:.2f} s"
        if self._config.checkpoint.asynchronous:
            took += f", training held up {seconds:.2f} s"
        self._console.say(f"checkpoint step {step} | {why} | {size:,.1f} MiB | {took} | {saved.path}")

    def _record(self, step: int, **seconds: float) -> None:
        self._recorder.record({"kind": "save", "step": step, **seconds, "time": time()})

    def _load(self, found: CheckpointRef) -> None:
        wanted = Layout.of(self._config.parallel)
        is_of_layout = found.manifest.layout == wanted
        if is_of_layout and self._engine.is_grouped_as(found.path):
            self._engine.load(found.path)
        else:
            regrouped = ": its parameters were grouped otherwise (by what phases train, what decays, or rules)"
            why = regrouped if is_of_layout else f" from {found.manifest.layout} to {wanted}"
            self._console.say(f"converting step {found.step}{why}")
            converted = universal_of(
                found,
                progress=self._progress(),
                report=self._console.say,
                team=self._team,
                memory_bytes=self._config.checkpoint.conversion_memory_bytes,
            )
            self._engine.load_converted(converted)
        last = self._timeline.at(found.step - 1)
        states = self._recurrent_states(found, global_batch_size=last.phase.global_batch_size)
        if states:
            with content_that_fits(found.path / MEMORY):
                self._engine.restore_recurrent_state(states, phase=last.phase)
        if found.manifest.proof is not None:
            self._require_same_answers(found, proof=found.manifest.proof)

    def _recurrent_states(self, found: CheckpointRef, *, global_batch_size: int) -> list[LaneState]:
        """Of the ranks that hold something of this rank's rows."""
        saved_by = Degrees.of(ParallelConfig(**found.manifest.layout.model_dump()))
        rows = self._engine.local_rows(global_batch_size)
        ranks = saved_by.ranks_of_rows(rows, global_batch_size=global_batch_size)
        return [LaneState(*state) for state in read_recurrent_states(found.path, ranks=ranks)]

    def _require_same_answers(self, found: CheckpointRef, *, proof: Sequence[float]) -> None:
        """UserError on every rank if any of them has loaded something else than was saved, unless that is accepted."""
        answers = proof_of(self._engine, last=self._timeline.at(found.step - 1))
        wrong = difference(proof, answers, precision=self._config.train.precision)
        first = self._team.first_word(wrong)
        if first is None:
            return
        what = f"{found.path}: the loaded model is not the one that was saved ({first})"
        if self._config.checkpoint.unproven == "refuse":
            raise UserError(
                f"{what}; load it with the versions and the config it was saved with, restore another checkpoint, or "
                "go on with it as it is: checkpoint.unproven=accept"
            )
        self.unproven = first
        self._console.say(f"warning: {what}; going on all the same (checkpoint.unproven: accept)")

    def _hold(self, step: int) -> Write:
        """Copy this rank's state; what is returned writes it."""
        held, memories = self._engine.hold(client_state={"iteration": step})

        def write(partial_dir: Path) -> dict[str, FileRecord]:
            files = FileWriter(partial_dir)
            held.write(partial_dir, open_file=files.open)
            if memories is not None:
                write_recurrent_state(partial_dir, memories, rank=self._team.rank, open_file=files.open)
            return files.records

        return write

    def _write(self, partial_dir: Path, *, step: int) -> dict[str, FileRecord]:
        files = FileWriter(partial_dir)
        self._engine.save(partial_dir, client_state={"iteration": step}, open_file=files.open)
        state = self._engine.recurrent_state()
        if state is not None:
            write_recurrent_state(partial_dir, state, rank=self._team.rank, open_file=files.open)
        return files.records

    def _facts(self, step: int, *, why: Why) -> Facts:
        last = self._timeline.at(step - 1)
        return Facts(
            step=step,
            tokens_seen=self._timeline.tokens_after(step),
            phase=last.phase.name,
            step_in_phase=last.step_in_phase + 1,
            layout=Layout.of(self._config.parallel),
            precision=self._config.train.precision,
            config_fingerprint=fingerprint(self._config),
            config=plain_config(self._config),
            why=why,
            cursor=self._cursor(step),
            proof=self._proof(step),
            optimizer=StateNames.of(self._config.optim.name),
            skipped_steps=self._engine.skipped.total,
            skipped_in_a_row=self._engine.skipped.in_a_row,
        )

    def _proof(self, step: int) -> Proof:
        """LostRunError on every rank for a state that no attempt could go on from: it would push good ones out."""
        proof = proof_of(self._engine, last=self._timeline.at(step - 1))
        if proof is not None and self._engine.has_finite_weights():
            return proof
        last = self.last_saved_step
        kept = f"the newest checkpoint is that of step {last}" if last else "there is no checkpoint before it"
        raise LostRunError(
            f"step {step}: weights, or the losses they give, are not finite: this is not saved, and {kept}; "
            "lower the learning rate and go on under another name"
        )

    def _cursor(self, step: int) -> Cursor:
        """The data position after `step` steps: that of the last step's first row, and how many rows it took."""
        last = self._timeline.at(step - 1)
        return Cursor(
            seed=self._config.seed,
            data_pass=last.data_pass,
            first_sample=last.first_sample + last.phase.global_batch_size,
            fingerprints=tuple(split.fingerprint for split in self._splits),
            dealing=self._rows.dealing,
        )

    def _progress(self) -> Callable[[int, int], None]:
        """A line every few seconds, for conversions of large models."""
        last_line = perf_counter()

        def progress(done: int, total: int) -> None:
            nonlocal last_line
            if perf_counter() - last_line >= PROGRESS_SECONDS:
                last_line = perf_counter()
                self._console.say(f"converting: {done} of {total} parameters of this process")

        return progress
