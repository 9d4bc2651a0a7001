"""The matrix-equation solver: a rough analog inverse, refined with precise analog MVMs."""

from analogtorch.solver.chip import InverseCircuit, SlicedMVM, SolverChip, SolverCost
from analogtorch.solver.cost import SolveCost
from analogtorch.solver.errors import NotSolvedError
from analogtorch.solver.file import load, save
from analogtorch.solver.presets import ideal_solver, rram_solver
from analogtorch.solver.solution import Solution
from analogtorch.solver.solve import MatrixSolver, solve

__all__ = [
    "InverseCircuit",
    "MatrixSolver",
    "NotSolvedError",
    "SlicedMVM",
    "Solution",
    "SolveCost",
    "SolverChip",
    "SolverCost",
    "ideal_solver",
    "load",
    "rram_solver",
    "save",
    "solve",
]
