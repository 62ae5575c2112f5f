"""Every release that hfds ships, as values: one file per dataset."""

from hfds.release import Release
from hfds.releases.image_to_prompt import DEMO

RELEASES: tuple[Release, ...] = (DEMO,)
