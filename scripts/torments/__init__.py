"""What scripts/torture.py does, by name."""

from scripts.torments.bad_numbers import numbers
from scripts.torments.damage import damage
from scripts.torments.disk import disk
from scripts.torments.long import long
from scripts.torments.processes import processes
from scripts.torments.storm import stop, storm

TORMENTS = {
    "storm": storm,
    "stop": stop,
    "damage": damage,
    "disk": disk,
    "numbers": numbers,
    "processes": processes,
    "long": long,
}
