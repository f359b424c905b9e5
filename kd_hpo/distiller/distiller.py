"""Distillation in a training loop of one's own: a scalar to add to its loss, and lambda, fixed or learned in the loop."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_hpo.config.pairs import LogitLoss, Pairs
from kd_hpo.config.weightings import Weighting
from kd_hpo.config.wording import cut, one_line
from kd_hpo.core.logit_losses import logit_loss
from kd_hpo.core.objective import Objective
from kd_hpo.core.pair_losses import pair_loss
from kd_hpo.core.plan import LayerShape
from kd_hpo.distiller.exported import arguments_of, require_layers_of
from kd_hpo.distiller.needs import require_what_is_needed
from kd_hpo.distiller.networks import Layers, LoopPrecision, Output, Wrapped, tapped, viewed_teacher, with_channels
from kd_hpo.distiller.parts import schedule_of, start_pairs
from kd_hpo.distiller.problem import Batch, GivenLoss, LoopProblem, TaskLoss
from kd_hpo.distiller.processes import Processes
from kd_hpo.distiller.settings import distilling
from kd_hpo.distiller.steps import OpenStep, Taught, end_step, teach
from kd_hpo.errors import CheckpointMismatch, ConfigError
from kd_hpo.nets.inputs import Example, examples_in, plain
from kd_hpo.nets.teacher_view import TeacherView
from kd_hpo.study.matrices.forms import Form, matrix_of_rank
from kd_hpo.study.store.export_file import load_export
from kd_hpo.trial.checkpoint import require_alike, require_fitting
from kd_hpo.trial.problem import PairState
from kd_hpo.trial.schedule import Schedule


class Distiller:
    """Teaches a student through pairs of layers, inside a training loop of one's own.

        kd = Distiller(teacher, student, example, task=F.cross_entropy, optimizer=optimizer, steps=steps)
        for x, y in train:
            taught = kd(x, y, outer=next_held_out_batch)
            loss = F.cross_entropy(taught.logits, y) + taught.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            kd.step()

    It takes the very steps of `kd_hpo.run_trial`: with the same batches, settings and start, numbers are the same.

    teacher, student  any modules; both are called with the inputs, a tensor, a mapping of arguments or a tuple of them. The
                      student may come compiled by torch.compile or in DistributedDataParallel; then regressors and lambda are
                      the same in all processes. The teacher is read in eval mode, without gradients, and is not changed
    example           inputs of one batch: layers and shapes are found with it, and the teacher's channels are standardised, and
                      those that never vary left out, over it and over `more`, batches of inputs too
    task              (output, labels) -> (), the loop's own loss. The balance measures its gradient, and lambda is learned on it
    optimizer         the student's. The balance and some directions of lambda read its state; it is not stepped here
    steps             of the whole training: when lambda and the balance do what is a share of that
    teacher_layers    names, globs or auto, as in a study file; `teacher_output` names the output of a network that returns more
    kd, pairs, weighting, seed
                      settings as in a study file, as objects or mappings
    scales            (T, S), multiply the pairs' gradients, in the place of a balance that is measured
    tell              is told of a student through which derivatives do not go the usual way
    fresh             (step, number) -> (inputs, labels) of the training data, for the directions neumann and conjugate_gradient
    Raises FeatureMismatch or ConfigError, by name, for what does not fit or is missing.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        example: Any,
        *,
        task: TaskLoss | None = None,
        optimizer: Optimizer | None = None,
        steps: int | None = None,
        teacher_layers: Layers = "auto",
        student_layers: Layers = "auto",
        teacher_output: Output = None,
        student_output: Output = None,
        more: Iterable[Any] = (),
        kd: LogitLoss | Mapping[str, Any] | None = None,
        pairs: Pairs | Mapping[str, Any] | None = None,
        weighting: Weighting | Mapping[str, Any] | None = None,
        scales: Tensor | None = None,
        fresh: Callable[[int, int], Batch] | None = None,
        seed: int = 0,
        tell: Callable[[str], None] = warnings.warn,
    ) -> None:
        settings = distilling(kd=kd, pairs=pairs, weighting=weighting, seed=seed)
        if scales is not None:
            settings = settings.replace(pairs=settings.pairs.replace(balance={"kind": "none"}).model_dump())
        optimizer = require_what_is_needed(settings, task=task, optimizer=optimizer, steps=steps, fresh=fresh)
        self._settings, self._tell, self._scales = settings, tell, scales
        self._loss = pair_loss(settings.pairs.loss.kind, **settings.pairs.loss.arguments())
        self._wrapped, processes = Wrapped.of(student), Processes(student)
        precision = LoopPrecision(self._wrapped.bare)
        shown, logits = Example.of(example), settings.pairs.logits == "inside" and settings.weighting.paired
        self._batch = examples_in(plain(example))
        names = (teacher_layers, student_layers) if settings.weighting.paired else ((), ())
        tap, shapes = tapped(self._wrapped.bare, names[1], student_output, shown, logits=logits, whose="student")
        inputs = (plain(each) for each in (example, *more))
        view = viewed_teacher(teacher, names[0], teacher_output, shown, shapes, self._loss, inputs, precision, logits=logits)
        chosen = processes.of_first(([c.cpu() for c in view.channels], {size: s.cpu() for size, s in view.statistics.items()}))
        view = with_channels(view, *chosen, self._loss) if processes.several else view
        compared = logit_loss(settings.kd.kind, **settings.kd.arguments())
        objective = Objective(GivenLoss(task), compared, settings.kd.weight)
        pairs_now = self._start_pairs(view)
        self._steps = steps
        self._problem = LoopProblem(
            objective,
            self._schedule_of(pairs_now),
            tap,
            self._wrapped.runner(tap),
            view,
            pairs_now,
            settings.pairs,
            settings.kd.schedule,
            seed,
            precision,
            processes,
            optimizer,
            fresh,
            examples=self._batch,
        )
        self._open: OpenStep | None = None

    def _start_pairs(self, view: TeacherView) -> PairState | None:
        return start_pairs(self._settings, self._loss, view, self._batch, self._scales, self._tell)

    def _schedule_of(self, pairs: PairState | None) -> Schedule:
        return schedule_of(self._settings, self._steps, pairs)

    # ---- a step

    @property
    def wants_outer(self) -> bool:
        """Whether lambda looks at an outer batch in the step that the next training batch begins."""
        return self._open is None and bool(self._problem.schedule.at(self._problem.step).learns)

    def __call__(self, x: Any, labels: Any = None, *, outer: Batch | Callable[[], Batch] | None = None) -> Taught:
        """Runs student and teacher on a batch, and gives the loss to add.

        In training, the first batch after a `step` begins the next one: where they are due, the balance is measured and lambda
        learns on the outer batch, inputs and labels, or what a function gives when it is asked for them. Further batches before
        that `step`, as gradients are accumulated, only add to the gradient. Outside of training, or without gradients, no step
        begins.

        x       inputs of both networks
        labels  as the loop's loss takes them; None where nothing here reads them
        """
        problem, x = self._problem, plain(x)
        problem.precision.follow()
        begins = self._open is None and problem.student.network.training and torch.is_grad_enabled()
        with problem.precision.full():
            taught, opened = teach(problem, x, labels, outer, begins=begins)
        if begins:
            self._open = opened
        return taught

    def step(self) -> None:
        """Ends a step: trains the regressors, and moves lambda where it looks from after the student's step.

        To be called after each step of the student's optimiser, before its gradients are cleared.
        Raises ConfigError where no batch came before, or nothing was differentiated.
        """
        if self._open is None:
            raise ConfigError("step() ends the step of a training batch, and there was none: call the distiller on a batch first")
        end_step(self._problem, self._open)
        self._open = None

    def end_epoch(self) -> Tensor:
        """Ends an epoch, for weightings that follow epochs and directions that look back within one; gives lambda (T, S) then."""
        problem = self._problem
        held = problem.schedule.held(problem.step)
        problem.epoch += 1
        if problem.pairs is None:
            return torch.zeros(problem.teacher.plan.shape)
        if problem.pairs.direction is not None:
            problem.pairs.direction.forget_steps()
        weights = problem.pairs.weighting.of_epoch(problem.epoch - 1)
        if held:
            problem.pairs.held_sum += weights
            problem.pairs.held_epochs += 1
        return weights

    # ---- what it knows

    @property
    def layers(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the T teacher and the S student layers."""
        plan = self._problem.teacher.plan
        return tuple(layer.name for layer in plan.teacher), tuple(layer.name for layer in plan.student)

    @property
    def shapes(self) -> tuple[tuple[LayerShape, ...], tuple[LayerShape, ...]]:
        """How the T teacher and the S student layers are read, as the networks give them."""
        return self._problem.teacher.shapes, self._problem.teacher.plan.student

    @property
    def weights(self) -> Tensor:
        """Lambda as it stands, (T, S), of sum 1: rows are teacher layers, columns student layers."""
        pairs = self._problem.pairs
        return torch.zeros(self._problem.teacher.plan.shape) if pairs is None else pairs.weighting.weights(self._problem.epoch)

    @property
    def scales(self) -> Tensor:
        """What the pairs' gradients are multiplied by beside lambda and the strength, (T, S)."""
        pairs = self._problem.pairs
        return torch.zeros(self._problem.teacher.plan.shape) if pairs is None else pairs.balance.scales()

    # ---- where it is, and what is kept of it

    def to(self, device: torch.device | str) -> Self:
        """Moves both networks, the regressors and the teacher's statistics to a device."""
        problem = self._problem
        problem.precision.device = torch.device(device)
        self._wrapped.given.to(device)
        view = problem.teacher
        view.network.to(device)
        problem.teacher = with_channels(view, view.channels, view.statistics, self._loss)
        if pairs := problem.pairs:
            pairs.losses.to(device)
            for parameter in (p for group in pairs.weighting.parameter_groups() for p in group["params"]):
                parameter.data = parameter.data.to(device)
            pairs.optimizer.load_state_dict(pairs.optimizer.state_dict())  # which puts its state where the parameters are
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything that goes on changing, and what the teacher's channels are standardised by; not the networks' weights."""
        problem, pairs = self._problem, self._problem.pairs
        return {
            "layers": self.layers,
            "step": problem.step,
            "epoch": problem.epoch,
            "channels": list(problem.teacher.channels),
            "statistics": dict(problem.teacher.statistics),
            "pairs": {name: part.state_dict() for name, part in pairs.modules().items()} if pairs else {},
            "held": (pairs.held_sum, pairs.held_epochs) if pairs else (),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave. Raises CheckpointMismatch for that of other layers, shapes or settings."""
        problem = self._problem
        try:
            if tuple(map(tuple, state["layers"])) != self.layers:
                raise ValueError(f"it is of the layers {state['layers']}, and these are {self.layers}")
            view = with_channels(problem.teacher, state["channels"], state["statistics"], self._loss)
            pairs = self._start_pairs(view)
            if pairs:
                for name, part in pairs.modules().items():
                    require_alike(state["pairs"][name], part.state_dict())
                    part.load_state_dict(state["pairs"][name])
                require_fitting(pairs.optimizer)
                pairs.held_sum, pairs.held_epochs = state["held"]
        except (ValueError, LookupError, TypeError, RuntimeError, AttributeError) as error:
            raise CheckpointMismatch(f"the state does not fit this distiller ({cut(one_line(str(error)))})") from error
        problem.teacher, problem.pairs, problem.schedule = view, pairs, self._schedule_of(pairs)
        problem.step, problem.epoch, self._open = int(state["step"]), int(state["epoch"]), None

    def close(self) -> None:
        """Takes its hooks off the student."""
        self._problem.student.close()

    # ---- from an export

    @classmethod
    def from_export(
        cls,
        path: Path | str,
        teacher: nn.Module,
        student: nn.Module,
        example: Any,
        *,
        rank: int = 1,
        form: Form = "held",
        epochs: int | None = None,
        task: TaskLoss | None = None,
        **changes: Any,
    ) -> Self:
        """Makes a distiller that teaches with a matrix that `kd-hpo export` wrote: its layers, losses, strength and lambda.

        Where the pairs' gradients were balanced they are balanced here too, which needs task, optimizer and steps; without a
        task they have the scales that the trial ended with.
        rank     of the matrix in the file
        form     held: the matrix throughout; replayed: that of each epoch, stretched to so many `epochs`, as `end_epoch` counts
                 them; learned: lambda learned anew with the settings that it was learned with
        changes  other arguments of a Distiller, in the place of what the export says

        Raises ExportError for a file that is none, or that names code which `changes` do not name, and FeatureMismatch, by name,
        for layers that these networks do not have, or that are others than those of the export.
        """
        entry = matrix_of_rank(load_export(Path(path)), rank)
        made = cls(teacher, student, example, task=task, **arguments_of(entry, form, epochs, changes, with_task=task is not None))
        require_layers_of(entry, *made.shapes)
        return made
