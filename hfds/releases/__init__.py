"""Every release that hfds ships, as values: one file per dataset."""

from hfds.release import Release
from hfds.releases.image_to_prompt import DEMO, DEMO_MEANING, V2, V3, V4, V4A, V4B, V5
from hfds.releases.laion_highres import AES5, AES6

RELEASES: tuple[Release, ...] = (DEMO, DEMO_MEANING, V2, V3, V4, V4A, V4B, V5, AES5, AES6)
