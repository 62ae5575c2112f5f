"""Every release that hfds ships, as values: one file per dataset."""

from hfds.release import Release
from hfds.releases.image_to_prompt import DEMO
from hfds.releases.laion_highres import AES5, AES6

RELEASES: tuple[Release, ...] = (DEMO, AES5, AES6)
