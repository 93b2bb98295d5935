"""Client rows of a scenario and seed, kept from one job to the next."""

from __future__ import annotations

from attacks.base import attacks
from benchmark.errors import SubmissionError
from benchmark.execution.worlds import attacker_role, generation_limit, open_world
from benchmark.keys import content_key
from benchmark.sandbox.proxy import created
from benchmark.suites.suite import Scenario, Suite
from benchmark.training.clients import Attacker, ClientRows, make_client_rows
from benchmark.training.schedule import cast
from benchmark.training.served import ModelPool, RoleModels


class ClientRowsCache:
    """The client rows of the last scenario and seed. One entry is enough because jobs come scenario by scenario.

    Args:
        pool: Pool that opens the models of clients and attackers.
    """

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool
        self._key = ""
        self._rows: ClientRows | str = ""

    def get(self, suite: Suite, scenario: Scenario, seed: int) -> ClientRows:
        """Return every client's rows in a scenario.

        Raises:
            SubmissionError: A submitted attack failed. The failure is cached too: an attack that runs out of time for
                one defense would do so for every defense.
        """
        key = content_key([suite.model_dump(mode="json"), scenario.model_dump(mode="json"), seed])
        if key != self._key:
            self._key, self._rows = "", ""
            self._rows = self._make(suite, scenario, seed)
            self._key = key
        if isinstance(self._rows, str):
            raise SubmissionError(self._rows)
        return self._rows

    def _make(self, suite: Suite, scenario: Scenario, seed: int) -> ClientRows | str:
        """Return the rows, or the message of the error that a submitted attack raised."""
        world, suite = open_world(suite, scenario), suite.under(scenario)
        federation = cast(scenario, suite.training, world.task_types, seed)
        models = RoleModels(self._pool, suite, world)
        model = models.open(scenario.start)
        try:
            with (
                models.lent(attacker_role(world), beside=scenario.start) as lent_model,
                created(attacks.get(scenario.attack.id), scenario.attack.params) as attack,
            ):
                attacker = Attacker(world, lent_model, generation_limit(suite, world.probes()))
                return make_client_rows(scenario, suite.training, federation, world, attack, attacker, model, seed)
        except SubmissionError as error:
            return str(error)
