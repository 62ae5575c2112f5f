"""Every release that hfds ships, as values: one file per dataset."""

from hfds.release import Release
from hfds.releases.image_to_prompt import (
    DEMO,
    DEMO_MEANING,
    V2,
    V2_PAINTED,
    V3,
    V3_PAINTED,
    V4,
    V4_PAINTED,
    V4A,
    V4B,
    V5,
    V5_PAINTED,
)
from hfds.releases.laion_highres import AES5, AES6

RELEASES: tuple[Release, ...] = (
    *(DEMO, DEMO_MEANING, V2, V3, V4, V4A, V4B, V5),
    *(V2_PAINTED, V3_PAINTED, V4_PAINTED, V5_PAINTED),
    *(AES5, AES6),
)
