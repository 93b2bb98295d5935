"""The sampler of a search: Optuna's tree-structured Parzen estimator. This module alone imports Optuna.

A suggestion depends on the search spaces, the finished trials and a seed, and on nothing that lives in a process. A
search that was killed therefore suggests what it would have suggested without the interruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from benchmark.attack_search.spaces import DIGITS, Choice, Number, Space, Value
from benchmark.attack_search.trial import Setting, Trial
from benchmark.errors import UsageError

NAME = "TPE"
RANDOM_TRIALS = 5
"""Trials before the sampler models them; Optuna's own default, ten, would be half of a small budget."""
_REPEATS = 10
"""Suggestions of the model, and as many random ones after them, that are discarded because a trial had their setting.
The model may keep to an attack with few settings, and a small space may be used up."""
_ATTACK = "attack"


def sampler_version() -> str:
    """Return name and version of the sampler, for example ``TPE of optuna 5.0.0``.

    Raises:
        UsageError: Optuna is not installed.
    """
    return f"{NAME} of optuna {_optuna().__version__}"


def suggest(spaces: Mapping[str, Space], trials: Sequence[Trial], seed: int) -> Setting:
    """Return the setting of the next trial, if possible one that no trial had.

    Args:
        spaces: Search space of each attack.
        trials: Finished trials, in order.
        seed: Seed of the search.

    Raises:
        UsageError: Optuna is not installed.
    """
    tried = {str(trial.setting) for trial in trials}
    for attempt in range(2 * _REPEATS):
        state = np.random.SeedSequence([seed, len(trials), attempt]).generate_state(1)
        setting = _suggestion(spaces, trials if attempt < _REPEATS else (), int(state[0]))
        if str(setting) not in tried:
            break
    return setting


def _suggestion(spaces: Mapping[str, Space], trials: Sequence[Trial], seed: int) -> Setting:
    optuna = _optuna()
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_TRIALS)
    study = optuna.create_study(sampler=sampler, direction="minimize")
    for trial in trials:
        space = spaces.get(trial.setting.attack)
        if space is None or not _lies_in(space, trial.setting.params):
            continue  # the scenario's own attack may lie outside
        names = {_ATTACK: trial.setting.attack}
        values = names | {_name(trial.setting.attack, name): value for name, value in trial.setting.params.items()}
        study.add_trial(
            optuna.trial.create_trial(
                params=values,
                distributions=_distributions(optuna, spaces, trial.setting.attack),
                value=trial.loss,
            )
        )
    asked = study.ask()
    attack: str = asked.suggest_categorical(_ATTACK, sorted(spaces))
    params = {name: _value(asked, _name(attack, name), domain) for name, domain in sorted(spaces[attack].items())}
    return Setting(attack, params)


def _lies_in(space: Space, params: Mapping[str, Value]) -> bool:
    return params.keys() == space.keys() and all(space[name].holds(value) for name, value in params.items())


def _name(attack: str, parameter: str) -> str:
    return f"{attack}.{parameter}"


def _distributions(optuna: ModuleType, spaces: Mapping[str, Space], attack: str) -> dict[str, Any]:
    made: dict[str, Any] = {_ATTACK: optuna.distributions.CategoricalDistribution(sorted(spaces))}
    for name, domain in spaces[attack].items():
        if isinstance(domain, Choice):
            made[_name(attack, name)] = optuna.distributions.CategoricalDistribution(domain.options)
        else:
            made[_name(attack, name)] = optuna.distributions.FloatDistribution(
                domain.low, domain.high, log=domain.log, step=domain.step or None
            )
    return made


def _value(asked: Any, name: str, domain: Number | Choice) -> Value:
    if isinstance(domain, Choice):
        chosen: Value = asked.suggest_categorical(name, domain.options)
        return chosen
    number = asked.suggest_float(name, domain.low, domain.high, log=domain.log, step=domain.step or None)
    # Short numbers, because the parameters stand in versions, files and on the page.
    return float(f"{number:.{DIGITS}g}")


def _optuna() -> ModuleType:
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise UsageError(
            f"attack-search needs Optuna, but {error.name!r} is not installed; run pip install 'fedsafetybench[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    module: ModuleType = optuna
    return module
